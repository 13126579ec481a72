// One head as lines from queries to keys, and the weights of one token beside the tokens.

const ROW = 24; // height of a token, in CSS pixels
const FAINT = 0.01; // fainter lines cost much and show little: they are drawn for a token pointed at alone

class Lines {
  constructor(owner) {
    this.owner = owner;
    this.side = owner.side;
    // All lines are many, and drawn once; those of a token few, and drawn anew for each.
    const picture = (ariaLabel) => make("canvas", { role: "img", ariaLabel, hidden: true });
    this.all = picture("lines from queries to keys, the darker the larger the weight");
    this.own = picture("the lines of one token");
    this.rows = { query: this.buildRows("query"), key: this.buildRows("key") };
    const column = (side, name) => {
      const list = make(
        "div",
        { className: `column ${name}`, role: "listbox", ariaLabel: name },
        ...this.rows[side],
      );
      list.addEventListener("pointerleave", () => this.owner.choose({ hover: null }));
      list.addEventListener("focusout", () => this.owner.choose({ hover: null }));
      list.addEventListener("keydown", (event) => this.rowKey(event, side));
      return list;
    };
    const between = make("div", {}, this.all, this.own);
    this.element = make(
      "div",
      { className: "lines" },
      make(
        "div",
        { className: "columns" },
        make("div", { className: "head" }, "query"),
        make("div", { className: "head" }),
        make("div", { className: "head" }, "key"),
        column("query", "queries"),
        between,
        column("key", "keys"),
      ),
    );
    this.element.style.setProperty("--row", `${ROW}px`);
    new ResizeObserver(() => this.request()).observe(between);
  }

  buildRows(side) {
    return this.owner.view.tokens.map((_, place) => {
      const row = make(
        "div",
        { className: "row", role: "option", tabIndex: place ? -1 : 0, data: { place } },
        make("span", { className: "place" }, place),
        tokenElement(this.owner.view, place),
        make("span", { className: "weight" }),
      );
      row.addEventListener("pointerenter", () => this.owner.choose({ hover: { [side]: place } }));
      row.addEventListener(
        "focus",
        () => row.matches(":focus-visible") && this.owner.choose({ hover: { [side]: place } }),
      );
      row.addEventListener("click", () => this.owner.keep({ [side]: place }));
      return row;
    });
  }

  rowKey(event, side) {
    if (event.shiftKey) return;
    const place = Number(event.target.dataset.place);
    const across = { ArrowLeft: "query", ArrowRight: "key" }[event.key];
    const down = { ArrowUp: place - 1, ArrowDown: place + 1, Home: 0, End: this.side - 1 }[event.key];
    if (event.key === "Enter" || event.key === " ") this.owner.keep({ [side]: place });
    else if (across === undefined && down === undefined) return;
    event.preventDefault();
    const target = this.rows[across ?? side][down ?? place];
    if (!target) return;
    for (const row of this.rows[across ?? side]) row.tabIndex = row === target ? 0 : -1;
    target.focus();
  }

  draw(point) {
    this.markRows(point);
    this.request();
  }

  // Draw before the next frame, once, however often the point has changed till then.
  request() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      if (!this.element.hidden) this.drawLines(this.owner.point);
    });
  }

  drawLines(point) {
    const { choice } = this.owner;
    const width = this.all.parentElement.clientWidth;
    const colour = getComputedStyle(this.element).getPropertyValue("--accent");
    const full = this.owner.full(this.owner.largest);
    this.all.hidden = point !== null;
    this.own.hidden = point === null;
    if (point) return this.drawOn(this.own, width, colour, full, point);
    const drawn = [choice.stream, choice.layer, choice.head, full, width, colour, devicePixelRatio].join();
    if (drawn !== this.drawn) this.drawOn(this.all, width, colour, full, {});
    this.drawn = drawn;
  }

  drawOn(canvas, width, colour, full, point) {
    const height = this.side * ROW;
    const density = Math.min(devicePixelRatio, 16000 / height); // browsers refuse a canvas that is too high
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    canvas.width = Math.round(width * density);
    canvas.height = Math.round(height * density);
    const pen = canvas.getContext("2d");
    pen.scale(density, density);
    pen.strokeStyle = colour;
    pen.lineWidth = 2;
    const isAll = point.query == null && point.key == null;
    const [queries, keys] = [point.query, point.key].map((one) =>
      one == null ? Array.from({ length: this.side }, (_, place) => place) : [one],
    );
    for (const query of queries) {
      for (const key of keys) {
        const opacity = Math.min(1, this.owner.weight(query, key) / full);
        if (opacity === 0 || (isAll && opacity < FAINT)) continue;
        const [from, to] = [(query + 0.5) * ROW, (key + 0.5) * ROW];
        pen.globalAlpha = opacity;
        pen.beginPath();
        pen.moveTo(0, from);
        pen.bezierCurveTo(width * 0.35, from, width * 0.65, to, width, to);
        pen.stroke();
      }
    }
  }

  // The weight beside a token: of the line between it and the chosen one, if there is one.
  beside(side, place, { query, key }) {
    if (query == null) return side === "query" ? this.owner.weight(place, key) : null;
    return side === "key" && (key == null || key === place) ? this.owner.weight(query, place) : null;
  }

  markRows(point) {
    const full = this.owner.full(this.owner.largest);
    const isKept = point !== null && point === this.owner.choice.kept;
    for (const side of ["query", "key"]) {
      this.rows[side].forEach((row, place) => {
        const isChosen = point?.[side] === place;
        const weight = point && this.beside(side, place, point);
        row.classList.toggle("chosen", isChosen);
        row.classList.toggle("kept", isChosen && isKept);
        row.setAttribute("aria-selected", isChosen);
        row.lastChild.textContent = weight === null ? "" : this.owner.figure(weight);
        row.style.setProperty("--share", weight === null ? 0 : Math.min(1, weight / full));
      });
    }
  }
}
