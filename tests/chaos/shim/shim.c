/* Faults at system calls: an LD_PRELOAD library that counts the calls of one process of a case and lets the chosen one
 * fail, be cut short, stop or kill the process; and that moves the wall clock of that process.
 *
 * Rule 1  All that steers it stands in one mapped file, the control (`Control` in __init__.py has the same fields): plan, counters,
 *         clock offsets and the list of calls. A process that dies leaves it as it is, and nothing here needs a descriptor.
 * Rule 2  A call is named by its function and the path it touches, with the case's directory and all hexadecimal names left
 *         out, so that the n-th call of a name is the same one in the next run, however the processes are scheduled.
 * Rule 3  Only the process that attached counts, never a child of it between fork and exec, and never a call of ours.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { ROLES = 4, PREFIXES = 3, NAME = 256 };
enum { KILL_BEFORE = 1, KILL_AFTER = 2, STOP = 3, SHORT = 4, ERRNO = 1000 };
enum {
    OPENS = 1, CREATES = 2, WRITES = 4, READS = 8, SYNCS = 16, SPACE = 32, REMOVES = 64, MAPS = 128, DESCRIPTOR = 256,
    NETWORK = 512, LOCKS = 1024, WAITS = 2048, CLOSES = 4096, SOCKET = 8192,
};

struct control {
    volatile uint32_t on, mode, nth, seen, fired, logged;
    volatile int32_t left, pid;
    volatile int64_t clock_ns[ROLES];
    char role[NAME], function[NAME], path[NAME], prefixes[PREFIXES][NAME];
    char log[];
};

static const char *ROLE_NAMES[ROLES] = {"client", "writer", "sender", "portal"};
static const char *PREFIX_NAMES[PREFIXES] = {"home", "run", "shm"};
static struct control *control;
static size_t control_bytes;
static int role;
static pid_t owner;

#define REAL(name) ((__typeof__(&name))real((void **)&real_##name, #name))
#define DECLARE(name) static void *real_##name;

static void *real(void **kept, const char *name) {
    if (!*kept) *kept = dlsym(RTLD_NEXT, name);
    return *kept;
}

/* Called by a forked client for itself, and when a process starts that has SHIM_CONTROL. */
int shim_attach(const char *path, const char *name) {
    int file = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0);
    if (file < 0) return -1;
    struct stat facts;
    if (fstat(file, &facts) == 0) {
        void *at = (void *)syscall(SYS_mmap, NULL, facts.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        for (int i = 0; at != MAP_FAILED && i < ROLES; i++)
            if (!strcmp(name, ROLE_NAMES[i])) {
                role = i;
                control_bytes = (size_t)facts.st_size;
                owner = (pid_t)syscall(SYS_getpid);
                control = at;
            }
    }
    syscall(SYS_close, file);
    return control ? 0 : -1;
}

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("SHIM_CONTROL"), *name = getenv("SHIM_ROLE");
    if (path && name) shim_attach(path, name);
}

/* What the path is called in every run; 0 where it is none of the case's. */
static int named(const char *path, char *name) {
    for (int i = 0; i < PREFIXES; i++) {
        size_t length = strlen(control->prefixes[i]);
        if (!length || strncmp(path, control->prefixes[i], length)) continue;
        const char *from = path + length;
        char *to = name, *end = name + NAME - 8;
        to += sprintf(to, "%s", PREFIX_NAMES[i]);
        while (*from && to < end) {
            size_t hex = strspn(from, "0123456789abcdef-"), digits = strspn(from, "0123456789");
            int is_folder = from[-1] == '/' && hex == 2 && (from[2] == '/' || !from[2]); /* of a chunk */
            int is_whole = is_folder || (from[-1] == '.' && digits && from[digits] == '.'); /* or a pid */
            if (hex >= 8 || is_whole) {
                *to++ = '*';
                from += hex;
            } else if (!strncmp(from, " (deleted)", 10)) {
                break;
            } else
                *to++ = *from++;
        }
        *to = 0;
        return 1;
    }
    return 0;
}

static int named_at(int directory, const char *path, char *name) {
    char whole[PATH_MAX];
    if (path[0] == '/' || directory == AT_FDCWD) return named(path, name);
    char link[64];
    sprintf(link, "/proc/self/fd/%d", directory);
    long length = syscall(SYS_readlinkat, AT_FDCWD, link, whole, sizeof whole - NAME - 2);
    if (length <= 0) return 0;
    snprintf(whole + length, NAME, "/%s", path);
    return named(whole, name);
}

static int named_descriptor(int descriptor, char *name, int *kind) {
    char link[64], whole[PATH_MAX];
    sprintf(link, "/proc/self/fd/%d", descriptor);
    long length = syscall(SYS_readlinkat, AT_FDCWD, link, whole, sizeof whole - 1);
    if (length <= 0) return 0;
    whole[length] = 0;
    if (!strncmp(whole, "socket:", 7)) {
        int domain = 0;
        socklen_t size = sizeof domain;
        getsockopt(descriptor, SOL_SOCKET, SO_DOMAIN, &domain, &size);
        strcpy(name, domain == AF_UNIX ? "unix socket" : "internet socket");
        *kind |= SOCKET;
        return 1;
    }
    if (!strncmp(whole, "pipe:", 5)) {
        strcpy(name, "pipe");
        *kind |= SOCKET;
        return 1;
    }
    return named(whole, name);
}

static int applies(uint32_t mode, int kind) {
    int socket = kind & SOCKET;
    switch ((int)mode - ERRNO) {
    case ENOSPC: return !socket && kind & (CREATES | WRITES | SYNCS | SPACE);
    case EIO: return !socket && kind & (OPENS | CREATES | WRITES | READS | SYNCS | SPACE | REMOVES | CLOSES);
    case EMFILE: return kind & DESCRIPTOR;
    case ENOMEM: return kind & (DESCRIPTOR | MAPS);
    case EINTR: return kind & (OPENS | WRITES | READS | SYNCS | SPACE | NETWORK | LOCKS | WAITS | CLOSES);
    case ECONNRESET: return socket && kind & (WRITES | READS | NETWORK);
    default: return mode != SHORT || kind & (WRITES | READS);
    }
}

static void die(void) {
    syscall(SYS_kill, owner, SIGKILL);
    for (;;) syscall(SYS_pause);
}

/* Counts one call. What to do with it: 0 as always, an errno, or -SHORT, -KILL_AFTER. */
static int decide(const char *function, const char *name, int kind) {
    int saved = errno;
    char line[NAME + 96];
    int length = snprintf(line, sizeof line, "%s %d %s %s\n", ROLE_NAMES[role], kind, function, name);
    uint32_t at = __atomic_fetch_add(&control->logged, (uint32_t)length, __ATOMIC_RELAXED);
    if (at + (uint32_t)length < control_bytes - sizeof *control) memcpy(control->log + at, line, (size_t)length);
    errno = saved;
    if (!control->on || !control->mode || strcmp(control->role, ROLE_NAMES[role])) return 0;
    if (control->fired) { /* it lasts: whatever it applies to */
        if (!applies(control->mode, kind)) return 0;
    } else {
        if (strcmp(control->function, function) || strcmp(control->path, name)) return 0;
        if (__atomic_add_fetch(&control->seen, 1, __ATOMIC_RELAXED) < control->nth) return 0;
    }
    if (__atomic_sub_fetch(&control->left, 1, __ATOMIC_RELAXED) < 0) return 0;
    control->pid = owner;
    __atomic_add_fetch(&control->fired, 1, __ATOMIC_RELAXED);
    if (control->mode == KILL_BEFORE) die();
    if (control->mode == STOP) {
        syscall(SYS_kill, owner, SIGSTOP);
        return 0;
    }
    if (control->mode > ERRNO)
        return kind & NETWORK && control->mode == ERRNO + ECONNRESET && !strcmp(function, "connect")
                   ? ECONNREFUSED
                   : (int)control->mode - ERRNO;
    return -(int)control->mode;
}

static int ours(void) { return control && (pid_t)syscall(SYS_getpid) == owner; }

static int at_path(const char *function, int directory, const char *path, int kind) {
    char name[NAME];
    return ours() && path && named_at(directory, path, name) ? decide(function, name, kind) : 0;
}

static int at_descriptor(const char *function, int descriptor, int kind) {
    char name[NAME];
    return ours() && named_descriptor(descriptor, name, &kind) ? decide(function, name, kind) : 0;
}

static int at_none(const char *function, const char *name, int kind) { return ours() ? decide(function, name, kind) : 0; }

#define OBEY(act, failed)        \
    do {                         \
        if ((act) > 0) {         \
            errno = (act);       \
            return failed;       \
        }                        \
    } while (0)
#define END(act, result)                        \
    do {                                        \
        if ((act) == -KILL_AFTER) die();        \
        return result;                          \
    } while (0)
static size_t cut(int act, size_t count) { return act == -SHORT && count > 1 ? count / 2 : count; }

/* ---------------------------------------------------------------------------------------------------- paths */

static int opening(int flags) { return OPENS | DESCRIPTOR | (flags & O_CREAT ? CREATES : 0); }

#define OPEN(function)                                                      \
    DECLARE(function)                                                       \
    int function(const char *path, int flags, ...) {                        \
        va_list more;                                                       \
        va_start(more, flags);                                              \
        mode_t mode = (mode_t)va_arg(more, int);                            \
        va_end(more);                                                       \
        int act = at_path("open", AT_FDCWD, path, opening(flags));          \
        OBEY(act, -1);                                                      \
        int result = REAL(function)(path, flags, mode);                     \
        END(act, result);                                                   \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(function)                                                    \
    DECLARE(function)                                                       \
    int function(int directory, const char *path, int flags, ...) {         \
        va_list more;                                                       \
        va_start(more, flags);                                              \
        mode_t mode = (mode_t)va_arg(more, int);                            \
        va_end(more);                                                       \
        int act = at_path("open", directory, path, opening(flags));         \
        OBEY(act, -1);                                                      \
        int result = REAL(function)(directory, path, flags, mode);          \
        END(act, result);                                                   \
    }
OPENAT(openat)
OPENAT(openat64)

#define ONE(type, function, label, directory, path, kind, failed, parameters, arguments) \
    DECLARE(function)                                                                  \
    type function parameters {                                                         \
        int act = at_path(label, directory, path, kind);                               \
        OBEY(act, failed);                                                             \
        type result = REAL(function) arguments;                                        \
        END(act, result);                                                              \
    }
ONE(int, unlink, "unlink", AT_FDCWD, path, REMOVES, -1, (const char *path), (path))
ONE(int, unlinkat, "unlink", at, path, REMOVES, -1, (int at, const char *path, int flags), (at, path, flags))
ONE(int, rmdir, "rmdir", AT_FDCWD, path, REMOVES, -1, (const char *path), (path))
ONE(int, mkdir, "mkdir", AT_FDCWD, path, CREATES, -1, (const char *path, mode_t mode), (path, mode))
ONE(int, mkdirat, "mkdir", at, path, CREATES, -1, (int at, const char *path, mode_t mode), (at, path, mode))
ONE(int, rename, "rename", AT_FDCWD, to, CREATES, -1, (const char *from, const char *to), (from, to))
ONE(int, renameat, "rename", b, to, CREATES, -1, (int a, const char *from, int b, const char *to), (a, from, b, to))
ONE(int, link, "link", AT_FDCWD, to, CREATES, -1, (const char *from, const char *to), (from, to))
ONE(int, symlink, "symlink", AT_FDCWD, to, CREATES, -1, (const char *from, const char *to), (from, to))
ONE(DIR *, opendir, "opendir", AT_FDCWD, path, OPENS | DESCRIPTOR, NULL, (const char *path), (path))

/* ---------------------------------------------------------------------------------------------- descriptors */

#define ON(type, function, label, kind, failed, parameters, arguments) \
    DECLARE(function)                                                  \
    type function parameters {                                         \
        int act = at_descriptor(label, fd, kind);                      \
        OBEY(act, failed);                                             \
        type result = REAL(function) arguments;                        \
        END(act, result);                                              \
    }
ON(ssize_t, read, "read", READS, -1, (int fd, void *to, size_t size), (fd, to, cut(act, size)))
ON(ssize_t, write, "write", WRITES, -1, (int fd, const void *from, size_t size), (fd, from, cut(act, size)))
ON(ssize_t, pread64, "pread", READS, -1, (int fd, void *to, size_t size, off64_t at), (fd, to, cut(act, size), at))
ON(ssize_t, pwrite64, "pwrite", WRITES, -1, (int fd, const void *from, size_t size, off64_t at),
   (fd, from, cut(act, size), at))
ON(ssize_t, send, "send", WRITES | NETWORK, -1, (int fd, const void *from, size_t size, int flags),
   (fd, from, cut(act, size), flags))
ON(ssize_t, recv, "recv", READS | NETWORK, -1, (int fd, void *to, size_t size, int flags), (fd, to, cut(act, size), flags))
ON(ssize_t, writev, "writev", WRITES, -1, (int fd, const struct iovec *parts, int count),
   (fd, parts, (int)cut(act, (size_t)count)))
ON(ssize_t, readv, "readv", READS, -1, (int fd, const struct iovec *parts, int count),
   (fd, parts, (int)cut(act, (size_t)count)))
ON(ssize_t, sendmsg, "send", WRITES | NETWORK, -1, (int fd, const struct msghdr *message, int flags), (fd, message, flags))
ON(ssize_t, recvmsg, "recv", READS | NETWORK, -1, (int fd, struct msghdr *message, int flags), (fd, message, flags))
ON(int, fsync, "fsync", SYNCS, -1, (int fd), (fd))
ON(int, fdatasync, "fsync", SYNCS, -1, (int fd), (fd))
ON(int, ftruncate64, "ftruncate", SPACE, -1, (int fd, off64_t size), (fd, size))
ON(int, flock, "flock", LOCKS, -1, (int fd, int operation), (fd, operation))
ON(int, fchmod, "fchmod", CREATES, -1, (int fd, mode_t mode), (fd, mode))
ON(int, bind, "bind", NETWORK, -1, (int fd, const struct sockaddr *address, socklen_t size), (fd, address, size))
ON(int, listen, "listen", NETWORK, -1, (int fd, int backlog), (fd, backlog))
ON(int, connect, "connect", NETWORK, -1, (int fd, const struct sockaddr *address, socklen_t size), (fd, address, size))
ON(int, accept, "accept", NETWORK | DESCRIPTOR, -1, (int fd, struct sockaddr *restrict address, socklen_t *restrict size),
   (fd, address, size))
ON(int, accept4, "accept", NETWORK | DESCRIPTOR, -1,
   (int fd, struct sockaddr *restrict address, socklen_t *restrict size, int flags), (fd, address, size, flags))
ON(DIR *, fdopendir, "opendir", OPENS | DESCRIPTOR, NULL, (int fd), (fd))

/* Returns the error instead of setting it. */
DECLARE(posix_fallocate64)
int posix_fallocate64(int fd, off64_t at, off64_t size) {
    int act = at_descriptor("fallocate", fd, SPACE);
    if (act > 0) return act;
    int result = REAL(posix_fallocate64)(fd, at, size);
    END(act, result);
}

/* The descriptor is gone also where close fails. */
DECLARE(close)
int close(int fd) {
    int act = at_descriptor("close", fd, CLOSES);
    int result = REAL(close)(fd);
    OBEY(act, -1);
    END(act, result);
}

DECLARE(mmap64)
void *mmap64(void *at, size_t size, int protection, int flags, int fd, off64_t offset) {
    int act = fd >= 0 ? at_descriptor("mmap", fd, MAPS) : 0;
    OBEY(act, MAP_FAILED);
    void *result = REAL(mmap64)(at, size, protection, flags, fd, offset);
    END(act, result);
}

/* Locks of sqlite and of the rings, and duplicated descriptors; the rest of fcntl passes. */
#define FCNTL(function)                                                                      \
    DECLARE(function)                                                                        \
    int function(int fd, int command, ...) {                                                 \
        va_list more;                                                                        \
        va_start(more, command);                                                             \
        void *argument = va_arg(more, void *);                                               \
        va_end(more);                                                                        \
        int is_lock = command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK;   \
        int is_copy = command == F_DUPFD || command == F_DUPFD_CLOEXEC;                      \
        int act = is_lock   ? at_descriptor("lock", fd, command == F_SETLKW ? LOCKS : 0)     \
                  : is_copy ? at_descriptor("dup", fd, DESCRIPTOR)                           \
                            : 0;                                                             \
        OBEY(act, -1);                                                                       \
        int result = REAL(function)(fd, command, argument);                                  \
        END(act, result);                                                                    \
    }
FCNTL(fcntl)
FCNTL(fcntl64)

/* ------------------------------------------------------------------------------------- new ones, and waits */

#define NEW(function, label, name, kind, parameters, arguments) \
    DECLARE(function)                                           \
    int function parameters {                                   \
        int act = at_none(label, name, kind);                   \
        OBEY(act, -1);                                          \
        int result = REAL(function) arguments;                  \
        END(act, result);                                       \
    }
NEW(socket, "socket", domain == AF_UNIX ? "unix socket" : "internet socket", DESCRIPTOR | SOCKET,
    (int domain, int type, int protocol), (domain, type, protocol))
NEW(socketpair, "socketpair", "unix socket", DESCRIPTOR | SOCKET, (int domain, int type, int protocol, int pair[2]),
    (domain, type, protocol, pair))
NEW(pipe2, "pipe", "pipe", DESCRIPTOR | SOCKET, (int pair[2], int flags), (pair, flags))
NEW(epoll_create1, "epoll", "epoll", DESCRIPTOR, (int flags), (flags))
NEW(poll, "poll", "poll", WAITS, (struct pollfd * descriptors, nfds_t count, int timeout), (descriptors, count, timeout))
NEW(epoll_wait, "poll", "epoll", WAITS, (int fd, struct epoll_event *events, int count, int timeout),
    (fd, events, count, timeout))

/* ---------------------------------------------------------------------------------------------------- clock */

static int64_t offset_ns(void) { return ours() ? control->clock_ns[role] : 0; }

DECLARE(clock_gettime)
int clock_gettime(clockid_t clock, struct timespec *to) {
    int result = REAL(clock_gettime)(clock, to);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) {
        int64_t offset = offset_ns(), nanoseconds = to->tv_nsec + offset % 1000000000;
        to->tv_sec += offset / 1000000000 + (nanoseconds >= 1000000000) - (nanoseconds < 0);
        to->tv_nsec = (nanoseconds + 1000000000) % 1000000000;
    }
    return result;
}

int gettimeofday(struct timeval *restrict to, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    to->tv_sec = now.tv_sec;
    to->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *to) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (to) *to = now.tv_sec;
    return now.tv_sec;
}
