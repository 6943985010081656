"use strict";
// The lineage graph: raw data at the left, models at the right. dagre says where things go, this draws them.
//
// Rule 1  Everything of a client is put in with textContent; the only HTML taken in is a page of this portal.
// Rule 2  Boxes and labels are buttons over an SVG of lines: focus, keyboard and long names are the browser's business.
// Rule 3  The frame scrolls as every page does. Nothing catches the wheel or a finger.

(() => {
  const REPRODUCED = "reproduced";
  const SIZE = { dataset: [172, 46], step: [150, 30], run: [188, 46], states: [112, 46] }; // pixels
  const LABEL = 132; // pixels that the words on a line may be wide
  const USES = 16; // beyond so many, "train" and "test" on the lines are only in the way
  const LEAST = 0.2; // zoom
  const READABLE = [0.75, 0.9]; // the first view of what does not fit, on a desk and on a phone: words are to be read
  const FITS = 0.6; // a graph that fits the frame at this zoom is shown whole
  const MOST = 2;
  const SVG = "http://www.w3.org/2000/svg";
  const ruler = document.createElement("canvas").getContext("2d");

  function drawn(name, className) {
    const made = document.createElementNS(SVG, name);
    if (className) made.setAttribute("class", className);
    return made;
  }

  const plural = (number, word) => `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;
  const short = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

  // ---------------------------------------------------------------------------------------------------------- things

  // What is drawn: a box for each dataset and run, one for all states of a run, and a link wherever one led to another.
  function readGraph(graph) {
    const things = new Map();
    const states = new Map(); // run -> its states, newest first
    const runOf = new Map();
    for (const edge of graph.edges) if (edge.kind === "state") runOf.set(edge.to, edge.from);
    for (const node of graph.nodes) {
      if (node.kind === "model_state") {
        const run = runOf.get(node.uuid) ?? "";
        if (!states.has(run)) states.set(run, []);
        states.get(run).push(node);
      } else {
        things.set(node.uuid, { id: node.uuid, kind: node.kind === "dataset" ? "dataset" : "run", node, title: node.name });
      }
    }
    const links = new Map();
    const link = (from, to, edge) => {
      if (!things.has(from) || !things.has(to)) return;
      const key = `${from} ${to}`;
      if (!links.has(key)) links.set(key, { id: key, from, to, steps: [], uses: [], through: [] });
      if (edge.kind === "transformation") links.get(key).steps.push({ ...edge, made: things.get(to).node });
      else if (edge.kind !== "parent" && edge.kind !== "state") links.get(key).uses.push(edge.kind);
    };
    for (const [run, listed] of states) {
      listed.sort((one, other) => other.sequence_num - one.sequence_num);
      const id = `states ${run}`;
      things.set(id, { id, kind: "states", run, states: listed, title: plural(listed.length, "state") });
      link(run, id, { kind: "state" });
    }
    for (const edge of graph.edges) if (edge.kind !== "state") link(edge.from, edge.to, edge);
    for (const { steps } of links.values()) steps.sort((one, other) => one.order - other.order);
    const reached = new Set([...links.values()].filter(({ from, to }) => from !== to).map(({ to }) => to));
    for (const thing of things.values()) {
      thing.raw = thing.kind === "dataset" && !reached.has(thing.id);
      thing.small = thing.kind === "dataset" && thing.node.intermediate && !thing.raw;
    }
    return { things, links: [...links.values()] };
  }

  // Chains of intermediate datasets become one link that knows all their steps.
  function fold({ things, links }, keep) {
    const shown = new Map(things);
    let left = links.map((link) => ({ ...link, chain: [link] }));
    const into = new Map();
    const out = new Map();
    const push = (map, key, link) => (map.has(key) ? map.get(key) : map.set(key, []).get(key)).push(link);
    for (const link of left) {
      push(into, link.to, link);
      push(out, link.from, link);
    }
    for (const thing of things.values()) {
      if (!thing.small || keep.has(thing.id)) continue;
      const [before, after] = [into.get(thing.id) ?? [], out.get(thing.id) ?? []];
      if (before.length !== 1 || after.length !== 1) continue;
      const [first, second] = [before[0], after[0]];
      if (first === second || first.from === second.to || things.get(second.to).kind !== "dataset") continue;
      const joined = {
        id: `${first.id}|${second.id}`,
        from: first.from,
        to: second.to,
        steps: [...first.steps, ...second.steps],
        uses: [],
        through: [...first.through, thing.id, ...second.through],
        chain: [...first.chain, ...second.chain],
      };
      shown.delete(thing.id);
      left = left.filter((link) => link !== first && link !== second);
      left.push(joined);
      out.set(first.from, out.get(first.from).map((link) => (link === first ? joined : link)));
      into.set(second.to, into.get(second.to).map((link) => (link === second ? joined : link)));
    }
    return { things: shown, links: left };
  }

  function labelOf(link, named) {
    if (link.uses.length) return named ? [...new Set(link.uses)].filter((use) => use !== "used").join(", ") : "";
    const names = link.steps.map((step) => (step.position > 0 && step.argument ? `as ${step.argument}` : step.name));
    if (names.length <= 3) return names.map((name) => short(name, 40)).join(" → ");
    return `${short(names[0], 18)} → … → ${short(names.at(-1), 18)} (${names.length}\u00a0steps)`;
  }

  // The size of a label: its words in up to three lines.
  function sizeOf(label, aside) {
    const space = ruler.measureText(" ").width;
    let [lines, width, widest] = [1, 0, 0];
    for (const word of label.split(" ")) {
      const more = Math.min(LABEL, ruler.measureText(word).width);
      if (width && width + space + more > LABEL) {
        lines += 1;
        width = more;
      } else width += (width ? space : 0) + more;
      widest = Math.max(widest, width);
    }
    lines = Math.min(lines, 3);
    return { lines, width: Math.ceil(widest) + aside, height: 9 + 15 * lines };
  }

  // How far along the longest way from an origin each dataset is; where it goes in a circle, one turn counts.
  function depths(links) {
    const into = new Map();
    for (const link of links) into.set(link.to, [...(into.get(link.to) ?? []), link.from]);
    const known = new Map();
    const enter = [...into.keys()].map((id) => [id, false]);
    while (enter.length) {
      const [id, ready] = enter.pop();
      const sources = into.get(id) ?? [];
      if (ready) known.set(id, 1 + Math.max(-1, ...sources.map((source) => known.get(source) ?? 0)));
      else if (!known.has(id)) {
        known.set(id, 0);
        enter.push([id, true], ...sources.filter((source) => !known.has(source)).map((source) => [source, false]));
      }
    }
    return known;
  }

  function standing(link) {
    if (!link.steps.length) return "";
    if (link.steps.every((step) => step.verdict === REPRODUCED)) return "good";
    return link.steps.some((step) => step.verdict && step.verdict !== REPRODUCED) ? "open" : "";
  }

  function subtitle(thing) {
    const { node } = thing;
    if (thing.kind === "states") {
      const last = thing.states.find((state) => state.final_state) ?? thing.states[0];
      return last.final_state ? `final: no. ${last.sequence_num}` : `newest: no. ${last.sequence_num}`;
    }
    if (thing.kind === "run") return node.model || node.status;
    const words = [thing.raw ? "raw data" : "", node.num_samples === null ? "" : plural(node.num_samples, "row"), node.split ?? ""];
    return words.filter(Boolean).join(" · ");
  }

  // ----------------------------------------------------------------------------------------------------------- graph

  class Lineage {
    constructor(section) {
      this.section = section;
      this.view = section.querySelector(".view");
      this.sized = section.querySelector(".sized");
      this.canvas = section.querySelector(".canvas");
      this.panel = section.querySelector(".panel");
      this.found = section.querySelector(".found");
      this.search = section.querySelector("input");
      this.keep = new Set(); // intermediate datasets that were unfolded
      this.every = false;
      this.only = null; // a set of ids: all else is left out
      this.scale = 1;
      this.selected = null;
      this.buttons = new Map();
    }

    async start() {
      const cut = this.section.querySelector(".cut");
      this.section.hidden = false;
      let graph;
      try {
        graph = await get(`/collection/lineage?${this.section.dataset.query}`);
      } catch (error) {
        cut.textContent = `The lineage could not be read (${error.message}). Load the page again.`;
        cut.hidden = false;
        return;
      }
      if (graph.truncated) {
        cut.textContent = `This graph is cut: at least ${plural(graph.truncated, "more node")} or edges are not in it. Open a dataset or a run to see its own lineage.`;
        cut.hidden = false;
      }
      if (graph.nodes.filter((node) => node.kind !== "model_state").length < 2 && !graph.edges.length) {
        this.section.hidden = true;
        return;
      }
      this.graph = readGraph(graph);
      if (![...this.graph.things.values()].some((thing) => thing.small)) this.tool("steps").hidden = true;
      this.listen();
      const at = new URLSearchParams(location.hash.slice(1)).get("at");
      const home = at && this.idOf(at) ? at : this.section.dataset.at;
      if (home) this.reveal(this.idOf(home));
      this.draw();
      this.fitWidth();
      if (home && this.buttons.has(this.idOf(home))) {
        if (at) this.select(this.idOf(home));
        else this.buttons.get(this.idOf(home)).classList.add("here");
        this.show(this.buttons.get(this.idOf(home)));
        if (at) this.section.scrollIntoView({ block: "start" });
      }
      this.section.dataset.ready = "";
    }

    tool(name) {
      return this.section.querySelector(`[data-do="${name}"]`);
    }

    // The box of a dataset or run, or the states that a state is among.
    idOf(uuid) {
      if (this.graph.things.has(uuid)) return uuid;
      const among = [...this.graph.things.values()].find((thing) => thing.states?.some((state) => state.uuid === uuid));
      return among?.id;
    }

    reveal(id) {
      if (id && this.graph.things.get(id)?.small) this.keep.add(id);
    }

    draw() {
      const started = performance.now();
      const every = new Set(this.graph.things.keys());
      const folded = fold(this.graph, this.every ? every : this.keep);
      if (this.only) {
        for (const id of folded.things.keys()) if (!this.only.has(id)) folded.things.delete(id);
        folded.links = folded.links.filter((link) => folded.things.has(link.from) && folded.things.has(link.to));
      }
      this.things = folded.things;
      this.links = folded.links;
      this.layOut();
      this.paint();
      this.mark();
      this.section.dataset.milliseconds = String(Math.round(performance.now() - started));
    }

    layOut() {
      const layout = new dagre.graphlib.Graph({ multigraph: true });
      layout.setGraph({ rankdir: "LR", nodesep: 14, edgesep: 8, ranksep: 44, marginx: 12, marginy: 12 });
      layout.setDefaultEdgeLabel(() => ({}));
      for (const thing of this.things.values()) {
        const [width, height] = SIZE[thing.small ? "step" : thing.kind];
        layout.setNode(thing.id, { width, height });
      }
      ruler.font = `12px ${getComputedStyle(document.body).fontFamily}`;
      const uses = this.links.filter((link) => link.uses.length);
      const depth = depths(this.links.filter((link) => !link.uses.length && this.things.get(link.to).kind === "dataset"));
      const column = 1 + Math.max(0, ...uses.map((link) => depth.get(link.from) ?? 0)); // all runs stand in one
      for (const link of this.links) {
        link.label = labelOf(link, uses.length <= USES);
        link.standing = standing(link);
        const size = link.label ? sizeOf(link.label, link.uses.length ? 14 : 32) : {};
        link.lines = size.lines;
        const minlen = link.uses.length ? column - (depth.get(link.from) ?? 0) : 1;
        const shape = { width: size.width ?? 0, height: size.height ?? 0, labelpos: "c", minlen, weight: link.uses.length ? 1 : 2 };
        layout.setEdge(link.from, link.to, shape, link.id);
      }
      dagre.layout(layout);
      const { width, height } = layout.graph();
      [this.width, this.height] = [width || 1, height || 1];
      for (const thing of this.things.values()) thing.place = layout.node(thing.id);
      for (const link of this.links) {
        link.place = layout.edge({ v: link.from, w: link.to, name: link.id });
        link.points = fromSideToSide(link.place, this.things.get(link.from).place, this.things.get(link.to).place, link.label);
      }
    }

    paint() {
      this.buttons.clear();
      this.lines = new Map();
      const svg = drawn("svg");
      svg.setAttribute("width", this.width);
      svg.setAttribute("height", this.height);
      svg.setAttribute("aria-hidden", "true");
      svg.append(arrow("end"), arrow("end-on"));
      const parts = [svg];
      for (const link of this.links) {
        const line = drawn("path", `line ${link.standing} ${link.uses.join(" ")} ${link.steps.length || link.uses.length ? "" : "untold"}`);
        line.setAttribute("d", curve(link.points));
        svg.append(line);
        this.lines.set(link.id, line);
        if (link.label) parts.push(this.label(link));
      }
      for (const thing of this.things.values()) parts.push(this.box(thing));
      this.canvas.replaceChildren(...parts);
      this.canvas.style.width = `${this.width}px`;
      this.canvas.style.height = `${this.height}px`;
      this.zoom(this.scale);
      const origin = [...this.things.values()].find((thing) => thing.raw);
      const first = this.buttons.get(this.selected) ?? this.buttons.get(origin?.id) ?? this.buttons.values().next().value;
      if (first) first.tabIndex = 0; // one stop of Tab for the whole graph
    }

    button(id, className, place) {
      const made = element("button", className);
      made.type = "button";
      made.tabIndex = -1;
      made.dataset.id = id;
      made.style.width = `${place.width}px`;
      made.style.height = `${place.height}px`;
      made.style.left = `${place.x - place.width / 2}px`;
      made.style.top = `${place.y - place.height / 2}px`;
      this.buttons.set(id, made);
      return made;
    }

    box(thing) {
      const kind = thing.small ? "step" : thing.raw ? "raw" : thing.kind;
      const made = this.button(thing.id, `box ${kind}`, thing.place);
      const under = thing.small ? "" : subtitle(thing);
      made.title = [thing.title, under].filter(Boolean).join("\n");
      made.append(element("span", "name", thing.title));
      if (under) made.append(element("span", "under", under));
      return made;
    }

    label(link) {
      const made = this.button(link.id, `label ${link.standing} ${link.uses.length ? "use" : ""} lines${link.lines > 1 ? "" : "1"}`, link.place);
      const names = link.steps.map((step) => step.name).join(" → ") || link.label;
      const verdicts = [...new Set(link.steps.map((step) => step.verdict).filter(Boolean))].join("; ");
      made.title = [names, verdicts, link.through.length ? `Click to unfold ${plural(link.steps.length, "step")}.` : ""].filter(Boolean).join("\n");
      made.append(element("span", "name", link.label));
      if (link.through.length) made.classList.add("folded");
      return made;
    }

    // ------------------------------------------------------------------------------------------------------- view

    zoom(scale) {
      this.scale = Math.min(MOST, Math.max(LEAST, scale));
      this.canvas.style.transform = `scale(${this.scale})`;
      this.sized.style.width = `${this.width * this.scale}px`;
      this.sized.style.height = `${this.height * this.scale}px`;
    }

    // Zoom about a point of the frame, its middle where none is given.
    zoomBy(factor, x = this.view.clientWidth / 2, y = this.view.clientHeight / 2) {
      const [left, top] = [(this.view.scrollLeft + x) / this.scale, (this.view.scrollTop + y) / this.scale];
      this.zoom(this.scale * factor);
      this.fitted = false;
      this.view.scrollTo(left * this.scale - x, top * this.scale - y);
    }

    // All of it in the frame.
    fitWhole() {
      const [wide, high] = [this.view.clientWidth / this.width, (window.innerHeight * 0.68) / this.height];
      this.zoom(Math.min(1, wide, high));
      this.view.scrollTo(0, 0);
      this.fitted = false;
    }

    // As wide as the frame, but no smaller than can be read.
    fitWidth() {
      const fits = this.view.clientWidth / this.width;
      this.zoom(fits >= FITS ? Math.min(1, fits) : READABLE[this.view.clientWidth < 600 ? 1 : 0]);
      this.view.scrollTo(0, 0);
      this.fitted = true;
    }

    // The frame has another width, as when the panel opens: what was fitted is again, unless it is so high that one would lose one's place.
    resized() {
      if (!this.fitted || this.height * this.scale > window.innerHeight * 0.7) return;
      this.fitWidth();
      const chosen = this.buttons.get(this.selected);
      if (chosen) this.show(chosen);
    }

    // Bring it into the frame; and, where somebody asked for just this, the frame into the window.
    show(button, onPage = false) {
      const [left, top] = [button.offsetLeft * this.scale, button.offsetTop * this.scale];
      const [width, height] = [button.offsetWidth * this.scale, button.offsetHeight * this.scale];
      const { scrollLeft, scrollTop, clientWidth, clientHeight } = this.view;
      const out = left < scrollLeft || left + width > scrollLeft + clientWidth || top < scrollTop || top + height > scrollTop + clientHeight;
      if (out) this.view.scrollTo(left + width / 2 - clientWidth / 2, top + height / 2 - clientHeight / 2);
      if (onPage) button.scrollIntoView({ block: "nearest", inline: "nearest" });
    }

    // -------------------------------------------------------------------------------------------------- selection

    // What a thing or a link came from and what came from it: ids of things and links.
    connected(id, links = this.links) {
      const reached = new Set([id]);
      const walk = (start, near, far) => {
        const open = [start];
        const seen = new Set(open);
        while (open.length) {
          const here = open.pop();
          reached.add(here);
          for (const link of links) {
            if (link[near] !== here) continue;
            reached.add(link.id);
            if (!seen.has(link[far])) {
              seen.add(link[far]);
              open.push(link[far]);
            }
          }
        }
      };
      const link = this.links.find((item) => item.id === id);
      link?.through.forEach((step) => reached.add(step));
      walk(link ? link.from : id, "to", "from");
      walk(link ? link.to : id, "from", "to");
      return reached;
    }

    mark() {
      const sought = this.search.value.trim().toLowerCase();
      const hits = sought ? this.hits(sought) : [];
      let lit = null;
      if (sought) lit = new Set(hits);
      else if (this.selected && this.buttons.has(this.selected)) lit = this.connected(this.selected);
      else if (this.selected && this.lines.has(this.selected)) lit = this.connected(this.selected);
      this.canvas.classList.toggle("lit", lit !== null);
      for (const [id, button] of this.buttons) {
        button.classList.toggle("on", lit?.has(id) ?? false);
        button.classList.toggle("hit", sought !== "" && hits.includes(id));
        button.setAttribute("aria-pressed", String(id === this.selected));
      }
      for (const [id, line] of this.lines) {
        const on = lit?.has(id) ?? false;
        line.classList.toggle("on", on);
        line.setAttribute("marker-end", `url(#${on && !sought ? "end-on" : "end"})`);
      }
      this.found.textContent = sought ? (hits.length ? `${hits.length} found` : "none found") : "";
      return hits;
    }

    hits(sought) {
      const has = (text) => text.toLowerCase().includes(sought);
      const found = [];
      for (const thing of this.things.values()) if (has(thing.title)) found.push(thing.id);
      for (const link of this.links) {
        const inside = link.through.some((id) => has(this.graph.things.get(id).title));
        if (link.label && (inside || link.steps.some((step) => has(step.name)))) found.push(link.id);
      }
      return found;
    }

    select(id) {
      if (id === undefined) return;
      this.selected = id;
      this.search.value = "";
      const link = this.links.find((item) => item.id === id);
      const thing = this.things.get(id);
      if (link?.through.length) {
        link.through.forEach((step) => this.keep.add(step));
        const { scrollLeft, scrollTop } = this.view;
        const focused = this.canvas.contains(document.activeElement);
        this.draw();
        this.view.scrollTo(scrollLeft, scrollTop);
        this.selected = link.chain[0].id;
        this.mark();
        this.showPanel(this.chainPanel(link));
        const first = this.buttons.get(link.chain[0].id);
        if (first) {
          this.walkTo(first, focused);
          this.show(first, true);
        }
      } else {
        this.mark();
        if (thing) this.showPanel(this.thingPanel(thing));
        else if (link) this.showPanel(this.linkPanel(link));
        if (this.buttons.has(id)) {
          this.walkTo(this.buttons.get(id), false);
          this.show(this.buttons.get(id), true);
        }
      }
      this.tool("only").hidden = false;
      const uuid = thing?.node?.uuid;
      if (uuid) history.replaceState(null, "", `#at=${uuid}`);
    }

    clear() {
      this.selected = null;
      this.search.value = "";
      this.panel.hidden = true;
      this.section.classList.remove("open");
      if (!this.only) this.tool("only").hidden = true;
      if (location.hash.startsWith("#at=")) history.replaceState(null, "", location.pathname);
      this.mark();
    }

    // ------------------------------------------------------------------------------------------------------ panel

    showPanel(parts) {
      const close = element("button", "plain close", "×");
      close.type = "button";
      close.setAttribute("aria-label", "Close");
      close.addEventListener("click", () => {
        const back = this.buttons.get(this.selected);
        this.clear();
        back?.focus();
      });
      this.panel.replaceChildren(close, ...parts.filter(Boolean));
      this.panel.hidden = false;
      this.panel.scrollTop = 0;
      this.section.classList.add("open");
    }

    thingPanel(thing) {
      const { node } = thing;
      const into = this.graph.links.filter((link) => link.to === thing.id && link.from !== thing.id);
      const out = this.graph.links.filter((link) => link.from === thing.id && link.to !== thing.id);
      if (thing.kind === "states") return this.statesPanel(thing);
      const page = element("a", "button", thing.kind === "run" ? "Open the run" : "Open the dataset");
      page.href = thing.kind === "run" ? `/runs/${node.uuid}` : `/datasets/${node.uuid}`;
      const facts = element("dl", "facts tight");
      const fact = (name, value) => {
        if (value === null || value === undefined || value === "") return;
        facts.append(element("dt", "", name));
        facts.append(value instanceof Node ? wrap("dd", value) : element("dd", "", String(value)));
      };
      if (thing.kind === "run") {
        fact("Status", element("span", `pill ${node.status}`, node.status));
        fact("Model", node.model);
        fact("Application", node.application_type);
        fact("States", this.graph.things.get(`states ${thing.id}`)?.states.length ?? 0);
      } else {
        fact("Samples", node.num_samples?.toLocaleString("en"));
        fact("Split", node.split);
        fact("Roles", node.roles ? "has X and y" : null);
        fact("Format", node.format);
        const digest = element("code", "digest", short(node.hash, 17));
        digest.title = node.hash;
        fact("Identity", digest);
      }
      const steps = into.flatMap((link) => link.steps.filter((step) => !(step.position > 0)));
      const kind = thing.kind === "run" ? "training run" : thing.raw ? "raw data" : thing.small ? "intermediate dataset" : "dataset";
      return [
        element("p", "kind small muted", kind),
        element("h3", "", thing.title),
        page,
        facts,
        ...this.listed(thing.kind === "run" ? "Data" : "Made from", into, "from"),
        ...(steps.length ? [element("h4", "", "By"), ...steps.map((step) => this.stepDetails(step, false))] : []),
        ...this.listed("Led to", out.filter((link) => this.graph.things.get(link.to).kind === "dataset"), "to"),
        ...this.listed("Trained", out.filter((link) => this.graph.things.get(link.to).kind === "run"), "to"),
        ...(thing.kind === "run" ? this.statesList(this.graph.things.get(`states ${thing.id}`)) : []),
      ];
    }

    // Links to other boxes of the graph.
    listed(title, links, end) {
      if (!links.length) return [];
      const list = element("ul", "plain");
      for (const link of links) {
        const thing = this.graph.things.get(link[end]);
        const item = element("li");
        const go = element("button", "go", thing.title);
        go.type = "button";
        go.addEventListener("click", () => this.jump(thing.id));
        item.append(go);
        const use = link.uses.join(", ") || (link.steps.find((step) => step.argument)?.argument ?? "");
        if (use && use !== "used") item.append(" ", element("span", "tag", use));
        list.append(item);
      }
      return [element("h4", "", title), list];
    }

    jump(id) {
      if (!this.buttons.has(id)) {
        this.reveal(id);
        this.only?.add(id);
        this.draw();
      }
      this.select(id);
    }

    statesList(thing) {
      if (!thing) return [];
      const list = element("ul", "plain states");
      for (const state of thing.states) {
        const item = element("li");
        const words = [`No. ${state.sequence_num}`, state.step === null ? "" : `step ${state.step}`, state.final_state ? "final" : ""];
        const link = element("a", "", "Download");
        link.href = `/collection/model-states/${state.uuid}/content`;
        link.download = "";
        item.append(element("span", "", words.filter(Boolean).join(" · ")), " ", link);
        list.append(item);
      }
      return [element("h4", "", "States"), list];
    }

    statesPanel(thing) {
      const run = this.graph.things.get(thing.run);
      const origins = [...this.connected(thing.id)].map((id) => this.graph.things.get(id)).filter((item) => item?.raw);
      const list = element("ul", "plain");
      for (const origin of origins) {
        const item = element("li");
        const link = element("a", "", origin.title);
        link.href = `/datasets/${origin.node.uuid}`;
        item.append(link);
        list.append(item);
      }
      const page = element("a", "button", "Open the run");
      page.href = `/runs/${thing.run}`;
      return [
        element("p", "kind small muted", "model states"),
        element("h3", "", run ? `${thing.title} of ${run.title}` : thing.title),
        page,
        origins.length ? element("h4", "", "Come from the raw data") : null,
        origins.length ? list : null,
        ...this.statesList(thing),
      ];
    }

    linkPanel(link) {
      const [from, to] = [this.graph.things.get(link.from), this.graph.things.get(link.to)];
      if (!link.steps.length) {
        const words = link.uses.length
          ? `${to.title} used ${from.title} ${link.uses.map((use) => (use === "used" ? "" : `as ${use} data`)).filter(Boolean).join(" and ")}`
          : `Nothing tells how ${to.title} came from ${from.title}.`;
        return [element("h3", "", link.label || "made from"), element("p", "", words)];
      }
      return link.steps.length === 1
        ? [element("p", "kind small muted", "step"), element("h3", "", link.steps[0].name), this.stepBody(link.steps[0])]
        : this.chainPanel(link);
    }

    chainPanel(link) {
      const parts = [
        element("p", "kind small muted", plural(link.steps.length, "step")),
        element("h3", "", `${this.graph.things.get(link.from).title} → ${this.graph.things.get(link.to).title}`),
        ...link.steps.map((step, index) => this.stepDetails(step, index === 0)),
      ];
      if (link.through.length) {
        const again = element("button", "tool", "Fold these steps again");
        again.type = "button";
        again.addEventListener("click", () => {
          link.through.forEach((id) => this.keep.delete(id));
          this.draw();
          this.clear();
        });
        parts.push(again);
      }
      return parts;
    }

    stepDetails(step, open) {
      const made = element("details", "one-step");
      const summary = element("summary", "", step.name);
      if (step.verdict) summary.append(" ", element("span", `verdict ${step.verdict === REPRODUCED ? "good" : "open"}`, step.verdict));
      made.append(summary);
      const fill = () => {
        if (made.open && made.children.length === 1) made.append(this.stepBody(step));
      };
      made.addEventListener("toggle", fill);
      made.open = open;
      return made;
    }

    // The step's article, from its own page: one template says how a step reads.
    stepBody(step) {
      const place = element("div", "loading muted", "…");
      getPage(`/transformations/${step.transformation}`)
        .then((page) => {
          const article = page.querySelector("article.step");
          if (!article) throw new Error("it has no such page");
          place.replaceChildren(document.adoptNode(article));
        })
        .catch((error) => (place.textContent = `The step could not be read (${error.message}).`))
        .finally(() => place.classList.remove("loading", "muted"));
      return place;
    }

    // ----------------------------------------------------------------------------------------------------- events

    walkTo(button, focus) {
      for (const other of this.buttons.values()) other.tabIndex = other === button ? 0 : -1;
      if (focus) {
        button.focus({ preventScroll: true });
        this.show(button);
      }
    }

    // Left and right along the lines, up and down within the column; of several the nearest.
    nearest(from, [across, down]) {
      const middle = (item) => [item.offsetLeft + item.offsetWidth / 2, item.offsetTop + item.offsetHeight / 2];
      const [x, y] = middle(from);
      const far = (item) => Math.abs(middle(item)[1] - y);
      let near;
      if (across) {
        const [here, there] = across > 0 ? ["from", "to"] : ["to", "from"];
        const link = this.links.find((item) => item.id === from.dataset.id);
        const along = this.links.filter((item) => item[here] === from.dataset.id);
        near = link ? [this.buttons.get(link[there])] : along.map((item) => this.buttons.get(item.id) ?? this.buttons.get(item[there]));
      } else {
        const inColumn = (item) => item.offsetLeft < x && x < item.offsetLeft + item.offsetWidth;
        near = [...this.buttons.values()].filter((item) => inColumn(item) && (middle(item)[1] - y) * down > 4);
      }
      return near.sort((one, other) => far(one) - far(other))[0];
    }

    listen() {
      const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      this.canvas.addEventListener("click", (event) => {
        const button = event.target.closest("button");
        if (button) this.select(button.dataset.id);
      });
      this.canvas.addEventListener("keydown", (event) => {
        const button = event.target.closest("button");
        if (!button || !ways[event.key] || event.ctrlKey || event.altKey || event.metaKey) return;
        event.preventDefault();
        const next = this.nearest(button, ways[event.key]);
        if (next) this.walkTo(next, true);
      });
      this.section.addEventListener("keydown", (event) => {
        if (event.key !== "Escape") return;
        const back = this.buttons.get(this.selected);
        const inside = this.panel.contains(document.activeElement);
        this.clear();
        if (inside) back?.focus();
      });
      this.search.addEventListener("input", () => {
        const hits = this.mark();
        if (hits.length) this.show(this.buttons.get(hits[0]));
      });
      let turn = 0;
      this.search.addEventListener("keydown", (event) => {
        if (event.key !== "Enter") return;
        event.preventDefault();
        const hits = this.mark();
        if (!hits.length) return;
        const id = hits[turn++ % hits.length];
        if (hits.length === 1) this.select(id);
        else this.walkTo(this.buttons.get(id), false);
        if (this.buttons.has(id)) this.show(this.buttons.get(id));
      });
      this.tool("in").addEventListener("click", () => this.zoomBy(1.25));
      this.tool("out").addEventListener("click", () => this.zoomBy(0.8));
      this.tool("fit").addEventListener("click", () => this.fitWhole());
      this.tool("steps").addEventListener("click", () => {
        this.every = !this.every;
        if (!this.every) this.keep.clear();
        this.tool("steps").setAttribute("aria-pressed", String(this.every));
        this.tool("steps").textContent = this.every ? "Fold the steps" : "Show every step";
        this.draw();
        this.fitWidth();
      });
      this.tool("only").addEventListener("click", () => {
        this.only = this.only ? null : this.connected(this.selected, this.graph.links); // with the steps that are folded now
        this.tool("only").textContent = this.only ? "Show everything" : "Show only its lineage";
        if (!this.only && this.selected === null) this.tool("only").hidden = true;
        this.draw();
        this.fitWidth();
        const button = this.buttons.get(this.selected);
        if (button) this.show(button);
      });
      this.view.addEventListener(
        "wheel",
        (event) => {
          if (!event.ctrlKey && !event.metaKey) return;
          event.preventDefault();
          const frame = this.view.getBoundingClientRect();
          this.zoomBy(Math.exp(-event.deltaY / 300), event.clientX - frame.left, event.clientY - frame.top);
        },
        { passive: false },
      );
      this.drag();
      let width = this.view.clientWidth;
      new ResizeObserver(() => {
        if (this.view.clientWidth !== width) {
          width = this.view.clientWidth;
          this.resized();
        }
      }).observe(this.view);
    }

    // A mouse drags the background; a finger scrolls the frame by itself.
    drag() {
      let from = null;
      this.view.addEventListener("pointerdown", (event) => {
        if (event.pointerType !== "mouse" || event.button !== 0 || event.target.closest("button")) return;
        const frame = this.view.getBoundingClientRect();
        if (event.clientX - frame.left > this.view.clientWidth || event.clientY - frame.top > this.view.clientHeight) return;
        from = { x: event.clientX, y: event.clientY, left: this.view.scrollLeft, top: this.view.scrollTop, moved: false };
        this.view.setPointerCapture(event.pointerId);
      });
      this.view.addEventListener("pointermove", (event) => {
        if (!from) return;
        from.moved ||= Math.abs(event.clientX - from.x) + Math.abs(event.clientY - from.y) > 4;
        if (!from.moved) return;
        this.view.classList.add("dragged");
        this.view.scrollTo(from.left - event.clientX + from.x, from.top - event.clientY + from.y);
      });
      const end = () => {
        if (from && !from.moved) this.clear();
        from = null;
        this.view.classList.remove("dragged");
      };
      this.view.addEventListener("pointerup", end);
      this.view.addEventListener("pointercancel", end);
    }
  }

  function wrap(name, child) {
    const made = element(name);
    made.append(child);
    return made;
  }

  function arrow(id) {
    const marker = drawn("marker");
    marker.id = id;
    for (const [name, value] of Object.entries({ viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 9, markerHeight: 9, markerUnits: "userSpaceOnUse", orient: "auto" })) {
      marker.setAttribute(name, value);
    }
    const head = drawn("path", "head");
    head.setAttribute("d", "M1 1 L7 4 L1 7 z");
    marker.append(head);
    return marker;
  }

  // A line that goes forward leaves a box at its right side, runs straight through its label, and comes in at the left side
  // of the next box.
  function fromSideToSide({ points, x, y, width }, from, to, labelled) {
    const [out, into] = [from.x + from.width / 2, to.x - to.width / 2];
    if (into - out < 10) return points;
    const label = labelled && x - width / 2 > out && x + width / 2 < into ? [x - width / 2, x + width / 2] : null;
    const bend = Math.min(22, (label ? Math.min(label[0] - out, into - label[1]) : into - out) / 3);
    const apart = ({ x: at }) => at > out + bend && at < into - bend && (!label || at < label[0] - bend || at > label[1] + bend);
    const inner = points.slice(1, -1).filter(apart);
    if (label) inner.push(...[label[0] - bend, ...label, label[1] + bend].map((at) => ({ x: at, y })));
    inner.sort((one, other) => one.x - other.x);
    return [{ x: out, y: from.y }, { x: out + bend, y: from.y }, ...inner, { x: into - bend, y: to.y }, { x: into, y: to.y }];
  }

  // Through dagre's points, bending at each of them.
  function curve(points) {
    const at = ({ x, y }) => `${x.toFixed(1)} ${y.toFixed(1)}`;
    if (points.length < 3) return `M${points.map(at).join(" L")}`;
    const parts = [`M${at(points[0])}`];
    for (let index = 1; index < points.length - 1; index += 1) {
      const [here, next] = [points[index], points[index + 1]];
      const end = index === points.length - 2 ? next : { x: (here.x + next.x) / 2, y: (here.y + next.y) / 2 };
      parts.push(`Q${at(here)} ${at(end)}`);
    }
    return parts.join(" ");
  }

  for (const section of document.querySelectorAll(".lineage")) {
    const lineage = new Lineage(section);
    lineage.start();
  }
})();
