// ELMo: the mix of its layers, the length of each token's vector, and how far its gates are open.

// Whether black is read better than white on a colour: relative luminance as WCAG 2 defines it.
function isBright(...channels) {
  const [red, green, blue] = channels.map((value) =>
    value <= 10 ? value / 3295 : ((value / 255 + 0.055) / 1.055) ** 2.4,
  );
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.179;
}

const GATES = ["input", "forget", "output"];

class GatesView {
  constructor(view, page, alone) {
    this.view = view;
    this.page = page;
    this.choice = { direction: 0, layer: 0 }; // layer 0 stands for all of them
    this.names = view.mix.map((_, number) =>
      number < view.below ? "embedding" : `layer ${number - view.below + 1}`,
    );
    this.largest = Math.max(...view.norms.flat());
    this.build(alone);
  }

  build(alone) {
    const full = Math.max(1, ...this.view.mix);
    const mix = make("div", { className: "mix", role: "list", ariaLabel: "layer mix" });
    this.view.mix.forEach((weight, number) => {
      const bar = make("i");
      bar.style.width = `${(100 * Math.max(0, weight)) / full}%`;
      mix.append(
        make("span", { role: "listitem" }, this.names[number]),
        make("div", { className: "bar" }, bar),
        make("span", { className: "value" }, weight.toFixed(4)),
      );
    });
    this.layerList = select("layer", ["all", ...this.names], (layer) => this.choose({ layer }));
    this.directionList = select(
      "direction",
      this.view.gates.map(({ name }) => STREAMS[name] ?? name),
      (direction) => this.choose({ direction }),
    );
    this.legend = make("div", { className: "legends" });
    this.heat = make("div", {
      className: "heat",
      tabIndex: 0,
      role: "region",
      ariaLabel: "norms and gates by token",
    });
    this.element = make(
      "section",
      { className: "view gates", ariaLabel: `${this.view.title}, ${this.view.model}` },
      about(this.view, alone),
      make(
        "div",
        { className: "parts" },
        make("div", {}, make("h3", {}, "Layer mix"), mix),
        make(
          "div",
          { className: "figure" },
          make("h3", {}, "Norms and gates"),
          make(
            "div",
            { className: "controls" },
            make("label", {}, "layer ", this.layerList),
            make("label", {}, "direction ", this.directionList),
          ),
          this.legend,
          make(
            "p",
            { className: "soft small" },
            "Norm: length of a token’s vector. Gate: mean over the cells of a layer, 1 open, 0 shut.",
          ),
          this.heat,
        ),
      ),
    );
  }

  choose(changes, passOn = true) {
    const next = { ...this.choice, ...changes };
    if (!(next.layer <= this.names.length)) next.layer = this.choice.layer;
    if (!(next.direction < this.view.gates.length)) next.direction = this.choice.direction;
    const isNew = next.layer !== this.choice.layer || next.direction !== this.choice.direction;
    this.choice = next;
    if (isNew) this.redraw();
    if (passOn) this.page.pass(this, changes);
  }

  step(layers, directions) {
    this.choose({
      layer: Math.min(Math.max(this.choice.layer + layers, 0), this.names.length),
      direction: Math.min(Math.max(this.choice.direction + directions, 0), this.view.gates.length - 1),
    });
  }

  // Groups of columns: [title, [layer's name, number of a token → value, value at the full colour]].
  groups() {
    const { below, norms, gates } = this.view;
    const isShown = (number) => this.choice.layer === 0 || this.choice.layer === number + 1;
    const shown = this.names.map((name, number) => [name, number]).filter(([, number]) => isShown(number));
    const values = gates[this.choice.direction].values;
    const length = shown.map(([name, number]) => [name, (place) => norms[number][place], this.largest]);
    const open = (gate) =>
      shown
        .filter(([, number]) => number >= below)
        .map(([name, number]) => [name, (place) => values[number - below][place][gate], 1]);
    return [["norm", length], ...GATES.map((name, gate) => [`${name} gate`, open(gate)])].filter(
      ([, columns]) => columns.length,
    );
  }

  redraw() {
    this.layerList.value = this.choice.layer;
    this.directionList.value = this.choice.direction;
    Object.assign(this.element.dataset, {
      layer: this.choice.layer || "all",
      direction: this.view.gates[this.choice.direction].name,
    });
    this.legend.replaceChildren(legend("0", this.largest.toPrecision(3), "norm"), legend("0", "1", "gate"));
    const colours = ramp();
    const groups = this.groups();
    const gap = (tag) => make(tag, { className: "gap" });
    const header = make(
      "thead",
      {},
      make(
        "tr",
        {},
        make("th", { className: "corner" }),
        ...groups.flatMap(([title, columns]) => [
          gap("th"),
          make("th", { colSpan: columns.length, scope: "colgroup" }, title),
        ]),
      ),
      make(
        "tr",
        {},
        make("th", { className: "corner" }, "token"),
        ...groups.flatMap(([, columns]) => [
          gap("th"),
          ...columns.map(([name]) => make("th", { scope: "col" }, name)),
        ]),
      ),
    );
    const body = make("tbody");
    this.view.tokens.forEach((_, place) => {
      const row = make(
        "tr",
        {},
        make(
          "th",
          { scope: "row" },
          tokenElement(this.view, place),
          make("span", { className: "place" }, place),
        ),
      );
      for (const [title, columns] of groups) {
        row.append(gap("td"));
        for (const [name, value, full] of columns) {
          const [red, green, blue] =
            colours[Math.min(255, Math.max(0, Math.round((255 * value(place)) / full)))];
          const cell = make(
            "td",
            { data: { of: `${title}, ${name}` } },
            full === 1 ? value(place).toFixed(3) : value(place).toPrecision(3),
          );
          cell.style.backgroundColor = `rgb(${red} ${green} ${blue})`;
          cell.style.color = isBright(red, green, blue) ? "#000" : "#fff";
          row.append(cell);
        }
      }
      body.append(row);
    });
    this.heat.replaceChildren(make("table", {}, header, body));
  }
}
