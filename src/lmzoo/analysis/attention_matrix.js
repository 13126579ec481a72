// One head as a matrix: a row a query, a column a key.

class Matrix {
  constructor(owner) {
    this.owner = owner;
    this.side = owner.side;
    this.cells = make("canvas");
    this.cell = make("div", { className: "cell", hidden: true });
    this.board = make(
      "div",
      {
        className: "cells",
        tabIndex: 0,
        role: "application",
        ariaLabel: "matrix of weights: arrows go from cell to cell",
      },
      this.cells,
      this.cell,
    );
    this.labels = { query: this.buildLabels(), key: this.buildLabels() };
    const size = this.side <= 12 ? 34 : this.side <= 24 ? 26 : this.side <= 60 ? 20 : 16;
    const sheet = make(
      "div",
      { className: "sheet" },
      make("div", { className: "corner" }, "key →", make("br"), "query ↓"),
      make("div", { className: "across" }, ...this.labels.key),
      make("div", { className: "down" }, ...this.labels.query),
      this.board,
    );
    this.element = make("div", { className: "matrix" }, sheet);
    this.element.style.setProperty("--cell", `${size}px`);
    this.element.style.setProperty("--label", size > 16 ? "13px" : "12px");
    this.board.style.width = this.board.style.height = `${size * this.side}px`;
    const at = (event) => {
      const box = this.cells.getBoundingClientRect();
      const place = (distance) => Math.min(this.side - 1, Math.max(0, Math.floor(distance / size)));
      return { query: place(event.clientY - box.top), key: place(event.clientX - box.left) };
    };
    this.board.addEventListener("pointermove", (event) => {
      const { query, key } = at(event);
      if (this.owner.choice.hover?.query !== query || this.owner.choice.hover?.key !== key)
        this.owner.choose({ hover: { query, key } });
      this.showTip(event.clientX, event.clientY);
    });
    for (const leave of ["pointerleave", "blur"]) {
      this.board.addEventListener(leave, () => {
        this.owner.page.tip.hidden = true;
        this.owner.choose({ hover: null });
      });
    }
    this.board.addEventListener("click", (event) => this.owner.keep(at(event)));
    this.board.addEventListener("keydown", (event) => this.cellKey(event));
  }

  buildLabels() {
    return this.owner.view.tokens.map((_, place) =>
      make("div", { className: "label" }, tokenElement(this.owner.view, place)),
    );
  }

  // Room above the matrix for the longest of the slanted tokens.
  fitLabels() {
    const longest = Math.max(...this.labels.key.map((label) => label.firstChild.offsetWidth));
    this.element.style.setProperty("--slanted", `${Math.ceil(longest * Math.sin(Math.PI / 3)) + 14}px`);
  }

  cellKey(event) {
    if (event.shiftKey) return;
    const { query = 0, key = 0 } = this.owner.point ?? {};
    const step = ARROWS[event.key];
    if (event.key === "Enter" || event.key === " ") this.owner.keep({ query, key });
    else if (!step) return;
    event.preventDefault();
    if (!step) return;
    const inside = (place) => Math.min(this.side - 1, Math.max(0, place));
    this.owner.choose({
      hover: this.owner.point
        ? { query: inside(query + step[0]), key: inside(key + step[1]) }
        : { query, key },
    });
    this.cell.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  // The weights of the chosen head; draw() then marks the cell in them.
  paint() {
    const { choice, stream } = this.owner;
    const start = choice.head * this.side * this.side;
    paint(this.cells, this.side, stream.weights[choice.layer], start, this.owner.full(this.owner.largest));
    this.fitLabels();
  }

  draw(point) {
    for (const side of ["query", "key"]) {
      this.labels[side].forEach((label, place) => label.classList.toggle("chosen", point?.[side] === place));
    }
    this.cell.hidden = point?.query == null || point?.key == null;
    if (this.cell.hidden) return;
    this.cell.style.top = `calc(${point.query} * var(--cell))`;
    this.cell.style.left = `calc(${point.key} * var(--cell))`;
  }

  showTip(x, y) {
    const { tip } = this.owner.page;
    tip.replaceChildren(...this.owner.told(this.owner.point));
    tip.hidden = false;
    const beside = x + 16 + tip.offsetWidth > innerWidth ? x - 16 - tip.offsetWidth : x + 16;
    const below = y + 16 + tip.offsetHeight > innerHeight ? y - 16 - tip.offsetHeight : y + 16;
    tip.style.left = `${Math.max(4, beside)}px`;
    tip.style.top = `${Math.max(4, below)}px`;
  }
}
