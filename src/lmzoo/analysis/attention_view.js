// Attention of a Transformer: the overview of all layers and heads, lines between tokens, and the matrix.

const THUMB = 40; // cells a side of a thumbnail at most; each then shows the largest weight of its block
const FADING = ["transparent", "var(--accent)"]; // as the lines are
const NAMED = 5; // tokens that the readout names

class AttentionView {
  constructor(view, page, alone) {
    this.view = view;
    this.page = page;
    this.side = view.tokens.length;
    // A point is {query}, {key} or both; hover: under the pointer or the focus, kept: held by a click.
    this.choice = { stream: 0, layer: 0, head: 0, mode: "lines", kept: null, hover: null };
    this.pooled = view.streams.map((stream) => stream.weights.map((layer) => this.pool(layer, stream.heads)));
    this.build(alone);
  }

  get stream() {
    return this.view.streams[this.choice.stream];
  }
  get point() {
    return this.choice.hover ?? this.choice.kept;
  }
  get largest() {
    return this.pooled[this.choice.stream][this.choice.layer][this.choice.head].largest;
  }

  full(largest) {
    return this.page.scale.value === "one" ? this.page.precision : Math.max(1, largest);
  }

  weight(query, key) {
    return this.stream.weights[this.choice.layer][(this.choice.head * this.side + query) * this.side + key];
  }

  figure(weight) {
    return weight === 0 ? "0" : (weight / this.page.precision).toFixed(4);
  }

  pool(layer, heads) {
    const cells = Math.min(this.side, THUMB);
    return Array.from({ length: heads }, (_, head) => {
      const values = new Uint16Array(cells * cells);
      let place = head * this.side * this.side;
      for (let query = 0; query < this.side; query++) {
        const row = Math.floor((query * cells) / this.side) * cells;
        for (let key = 0; key < this.side; key++, place++) {
          const cell = row + Math.floor((key * cells) / this.side);
          if (layer[place] > values[cell]) values[cell] = layer[place];
        }
      }
      return { values, cells, largest: values.reduce((a, b) => Math.max(a, b), 0) };
    });
  }

  build(alone) {
    this.lines = new Lines(this);
    this.matrix = new Matrix(this);
    this.streamList = select(
      "stream",
      this.view.streams.map(({ name }) => STREAMS[name] ?? name),
      (stream) => this.choose({ stream }),
    );
    this.layerList = select("layer", [], (layer) => this.choose({ layer }));
    this.headList = select("head", [], (head) => this.choose({ head }));
    this.modes = ["lines", "matrix"].map((mode) => {
      const button = make("button", { type: "button", data: { mode } }, mode);
      button.addEventListener("click", () => this.choose({ mode }));
      return button;
    });
    this.legend = make("div", { className: "legends" });
    this.readout = make("p", { className: "readout", ariaLive: "polite" });
    this.grid = make("div", { className: "grid", role: "radiogroup", ariaLabel: "layers and heads" });
    this.grid.addEventListener("keydown", (event) => this.gridKey(event));
    const streams = make("label", { hidden: this.view.streams.length < 2 }, "stream ", this.streamList);
    this.element = make(
      "section",
      { className: "view attention", ariaLabel: `${this.view.title}, ${this.view.model}` },
      about(this.view, alone),
      make(
        "div",
        { className: "parts" },
        make(
          "details",
          { className: "overview", open: true },
          make("summary", {}, "All layers and heads"),
          make("div", { className: "scroll" }, this.grid),
        ),
        make(
          "div",
          { className: "figure" },
          make(
            "div",
            { className: "controls" },
            streams,
            make("label", {}, "layer ", this.layerList),
            make("label", {}, "head ", this.headList),
            make("span", { className: "modes", role: "group", ariaLabel: "shown as" }, ...this.modes),
          ),
          this.legend,
          this.readout,
          this.lines.element,
          this.matrix.element,
        ),
      ),
    );
  }

  // ---- choosing

  choose(changes, passOn = true) {
    const before = this.choice;
    const next = { ...before, ...changes };
    if (!(next.stream < this.view.streams.length)) next.stream = before.stream;
    const { layers, heads } = this.view.streams[next.stream];
    if (next.layer >= layers) next.layer = Math.min(before.layer, layers - 1);
    if (next.head >= heads) next.head = Math.min(before.head, heads - 1);
    this.choice = next;
    if (["stream", "layer", "head", "mode"].some((name) => next[name] !== before[name]))
      this.redraw(next.stream !== before.stream);
    else this.drawPoint();
    if (passOn) this.page.pass(this, changes);
  }

  step(layers, heads) {
    this.choose({
      layer: Math.min(Math.max(this.choice.layer + layers, 0), this.stream.layers - 1),
      head: Math.min(Math.max(this.choice.head + heads, 0), this.stream.heads - 1),
    });
  }

  keep(point) {
    const { kept } = this.choice;
    this.choose({ kept: kept && kept.query === point.query && kept.key === point.key ? null : point });
  }

  gridKey(event) {
    const step = ARROWS[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    this.step(...step);
    this.grid.querySelector("[aria-checked=true]").focus();
  }

  // ---- drawing

  redraw(anew = true) {
    const { stream, layer, head, mode } = this.choice;
    if (anew) this.drawOverview();
    Object.assign(this.element.dataset, { stream: this.stream.name, layer: layer + 1, head: head + 1, mode });
    this.streamList.value = stream;
    this.layerList.value = layer;
    this.headList.value = head;
    for (const button of this.modes) button.setAttribute("aria-pressed", button.dataset.mode === mode);
    for (const button of this.grid.querySelectorAll("button")) {
      const isChosen = Number(button.dataset.layer) === layer + 1 && Number(button.dataset.head) === head + 1;
      button.setAttribute("aria-checked", isChosen);
      button.tabIndex = isChosen ? 0 : -1;
    }
    const full = this.full(this.largest);
    this.legend.replaceChildren(
      legend("0", `${full / this.page.precision}`, "weight", mode === "lines" ? FADING : undefined),
      make("span", { className: "legend" }, `largest here ${this.figure(this.largest)}`),
    );
    this.lines.element.hidden = mode !== "lines";
    this.matrix.element.hidden = mode !== "matrix";
    if (mode === "matrix") this.matrix.paint();
    this.drawPoint();
  }

  drawOverview() {
    const { layers, heads } = this.stream;
    for (const [list, count] of [
      [this.layerList, layers],
      [this.headList, heads],
    ]) {
      if (list.length !== count)
        list.replaceChildren(
          ...Array.from({ length: count }, (_, n) => make("option", { value: String(n) }, n + 1)),
        );
    }
    this.grid.style.setProperty("--heads", heads);
    this.grid.style.setProperty(
      "--thumb-limit",
      `${heads <= 6 ? 48 : heads <= 8 ? 42 : heads <= 12 ? 36 : 30}px`,
    );
    const numbers = Array.from({ length: heads }, (_, head) =>
      make("span", { className: "number", ariaHidden: "true" }, head + 1),
    );
    this.grid.replaceChildren(make("span", { className: "number" }, ""), ...numbers);
    this.pooled[this.choice.stream].forEach((row, layer) => {
      this.grid.append(make("span", { className: "number", ariaHidden: "true" }, layer + 1));
      row.forEach(({ values, cells, largest }, head) => {
        const canvas = make("canvas");
        paint(canvas, cells, values, 0, this.full(largest));
        const label = `layer ${layer + 1}, head ${head + 1}`;
        const button = make(
          "button",
          {
            type: "button",
            role: "radio",
            ariaLabel: label,
            title: label,
            data: { layer: layer + 1, head: head + 1 },
          },
          canvas,
        );
        button.addEventListener("click", () => this.choose({ layer, head }));
        this.grid.append(button);
      });
    });
  }

  drawPoint() {
    const { point } = this;
    this.readout.replaceChildren(...this.told(point));
    this[this.choice.mode].draw(point);
  }

  told(point) {
    if (!point) {
      const what =
        this.choice.mode === "lines"
          ? "a token: its lines alone, the faintest too, with their weights"
          : "a cell: its weight";
      return [make("span", { className: "soft" }, `Point at ${what}. A click keeps it.`)];
    }
    const { query, key } = point;
    if (query != null && key != null) {
      return [
        ...named(this.view, query),
        " attends to ",
        ...named(this.view, key),
        `: ${this.figure(this.weight(query, key))}`,
      ];
    }
    const own = query ?? key;
    const weights = Array.from({ length: this.side }, (_, other) => [
      other,
      query != null ? this.weight(own, other) : this.weight(other, own),
    ]);
    const most = weights
      .filter(([, weight]) => weight > 0)
      .sort((a, b) => b[1] - a[1] || a[0] - b[0])
      .slice(0, NAMED);
    const list = most.flatMap(([other, weight], rank) => [
      rank ? ", " : "",
      make("span", { className: "pair" }, ...named(this.view, other), ` ${this.figure(weight)}`),
    ]);
    if (!list.length)
      return [...named(this.view, own), query != null ? " attends to nothing" : " is attended to by nothing"];
    return [
      ...named(this.view, own),
      query != null ? " attends most to " : " is attended to most by ",
      ...list,
    ];
  }
}
