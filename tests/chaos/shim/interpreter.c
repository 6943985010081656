/* Stands where `sys.executable` points: the real interpreter, with the shim in front of those processes of the pipeline whose
 * home lies beside a control file. The writer is started with an environment made anew, so nothing of ours would reach
 * it by inheritance; but it is started by `sys.executable`, and so are sender and portal.
 *
 * INTERPRETER and SHIM are given at compile time.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int count, char **words) {
    const char *role = NULL, *home = NULL;
    char control[4096];
    (void)count;
    for (int i = 1; words[i] && words[i + 1]; i++) {
        if (!strcmp(words[i], "-m") && !strncmp(words[i + 1], "seclea.", 7)) role = words[i + 1] + 7;
        if (!strcmp(words[i], "--home") || !strcmp(words[i], "--data")) home = words[i + 1];
    }
    if (role && home) {
        snprintf(control, sizeof control, "%s", home);
        char *slash = strrchr(control, '/'); /* the portal's data lie in the home */
        if (slash && !strcmp(slash, "/portal")) *slash = 0, slash = strrchr(control, '/');
        if (slash && slash - control < 4000) {
            strcpy(slash, "/control");
            if (access(control, R_OK | W_OK) == 0) {
                setenv("SHIM_CONTROL", control, 1);
                setenv("SHIM_ROLE", role, 1);
                setenv("LD_PRELOAD", SHIM, 1);
            }
        }
    }
    execv(INTERPRETER, words); /* under our name: the children of it, too, are to come by here */
    perror(INTERPRETER);
    return 127;
}
