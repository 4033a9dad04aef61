// The theme, sortable tables, and the filters and the picture of a leaderboard.
// All values are read from the table; text is set as text, never as HTML.
"use strict";

(function () {
  const root = document.documentElement;
  const SVG = "http://www.w3.org/2000/svg";
  const SHAPES = [ // around (0, 0): circle, square, triangle, diamond, cross
    "M5 0A5 5 0 1 1-5 0A5 5 0 1 1 5 0Z", "M-4.5-4.5H4.5V4.5H-4.5Z", "M0-6L5.6 4.5H-5.6Z",
    "M0-6.3L6.3 0L0 6.3L-6.3 0Z", "M-2-5.5H2V-2H5.5V2H2V5.5H-2V2H-5.5V-2H-2Z",
  ];
  root.classList.add("js");

  // --- theme ---------------------------------------------------------------------------------
  function storedTheme() {
    try { return localStorage.getItem("oodbench-theme"); } catch (error) { return null; }
  }
  let theme = storedTheme();
  function showTheme() {
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
    else delete root.dataset.theme;
    const button = document.getElementById("theme");
    if (button) button.textContent = "Theme: " + (root.dataset.theme || "system");
  }
  showTheme();

  function prepareTheme() {
    showTheme();
    document.getElementById("theme").addEventListener("click", function () {
      const dark = matchMedia("(prefers-color-scheme: dark)").matches;
      const order = dark ? ["system", "light", "dark"] : ["system", "dark", "light"];
      theme = order[(order.indexOf(root.dataset.theme || "system") + 1) % 3];
      try { localStorage.setItem("oodbench-theme", theme); } catch (error) { /* not remembered */ }
      showTheme();
    });
  }

  // --- tables --------------------------------------------------------------------------------
  function numberOf(cell) {
    return cell && cell.dataset.v !== undefined ? Number(cell.dataset.v) : NaN;
  }

  function sortTable(table, head, direction) {
    const index = head.cellIndex;
    const sign = direction === "ascending" ? 1 : -1;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", direction);
    for (const body of table.tBodies) {
      const rows = Array.from(body.rows).filter((row) => row.cells.length > 1);
      const keyed = rows.map(function (row, place) {
        const cell = row.cells[index];
        const number = numberOf(cell);
        return { row, place, number, text: cell ? cell.textContent.trim() : "" };
      });
      keyed.sort(function (a, b) {
        let order;
        if (head.dataset.sort === "num") {
          if (isNaN(a.number) || isNaN(b.number)) order = isNaN(a.number) - isNaN(b.number);
          else order = sign * (a.number - b.number);
        } else order = sign * a.text.localeCompare(b.text, "en", { numeric: true });
        return order || a.place - b.place;
      });
      body.append(...keyed.map((each) => each.row));
    }
  }

  function prepareTable(table) {
    for (const head of table.tHead.rows[0].cells) {
      const button = head.querySelector("button");
      if (!button) continue;
      button.addEventListener("click", function () {
        const first = head.dataset.best === "max" ? "descending" : "ascending";
        const other = first === "ascending" ? "descending" : "ascending";
        sortTable(table, head, head.getAttribute("aria-sort") === first ? other : first);
        table.dispatchEvent(new Event("sorted"));
      });
    }
  }

  // --- leaderboard ---------------------------------------------------------------------------
  function prepareBoard(table) {
    const form = document.getElementById("controls");
    const get = (id) => document.getElementById(id);
    const heads = Array.from(table.tHead.rows[0].cells);
    const rows = Array.from(table.querySelectorAll("tr[data-model]")).map(function (row) {
      const link = row.querySelector("th a");
      return {
        row, link, name: link.textContent, oracle: row.parentElement.classList.contains("oracle"),
        words: (link.textContent + " " + row.dataset.detector).toLowerCase(),
        needs: (row.dataset.needs || "").split(" "), model: Number(row.dataset.model),
      };
    });
    let usual = "";
    const fields = ["metric", "ood", "cost", "model", "text", "most"].filter(get);

    function column(metric, key) {
      return heads.find((head) => head.dataset.m === metric && head.dataset.c === key);
    }
    function costColumn() {
      return get("cost") && heads.find((head) => head.dataset.cost === get("cost").value);
    }
    function isShown(head, metric, key) {
      if (head.dataset.cost) return head.dataset.cost === get("cost").value;
      if (!head.dataset.m) return true;
      if (key === "mean" && get("ood").options.length > 1) return head.dataset.m === metric;
      return head.dataset.c === key; // one OOD set or group: all metrics
    }

    function showColumns() {
      const metric = get("metric").value, key = get("ood").value;
      const shown = heads.map((head) => isShown(head, metric, key));
      for (const row of table.rows) {
        if (row.cells.length < heads.length) continue;
        for (let i = 0; i < shown.length; i++) row.cells[i].hidden = !shown[i];
      }
      for (const section of table.querySelectorAll(".section th")) {
        section.colSpan = shown.filter(Boolean).length;
      }
      // The column that decides is shown on a phone, too.
      heads.forEach(function (head, i) {
        const minor = head.classList.contains("q") && key === "mean" &&
          /^(set:|worst)/.test(head.dataset.c);
        if (!head.classList.contains("q")) return;
        for (const row of table.rows) {
          if (row.cells.length === heads.length) row.cells[i].classList.toggle("minor", minor);
        }
      });
    }

    // The order of the rows in the address; the metric's own order needs no mention.
    function keyOf(head) {
      return head.dataset.cost || (head.dataset.m ? head.dataset.m + "/" + head.dataset.c : head.textContent);
    }
    function order() {
      const head = heads.find((each) => each.hasAttribute("aria-sort"));
      return keyOf(head) + " " + head.getAttribute("aria-sort");
    }
    function sortByAddress() {
      sortByChoice();
      const said = new URLSearchParams(location.hash.slice(1)).get("sort") || "";
      const direction = said.split(" ").pop();
      const head = heads.find((each) => !each.hidden && keyOf(each) + " " + direction === said);
      if (head && /^(a|de)scending$/.test(direction)) sortTable(table, head, direction);
    }

    function sortByChoice() {
      const head = column(get("metric").value, get("ood").value);
      sortTable(table, head, head.dataset.best === "max" ? "descending" : "ascending");
      usual = order();
    }

    function filterRows() {
      const value = (id) => (get(id) ? get(id).value : "");
      const words = value("text").toLowerCase().split(/\s+/).filter(Boolean);
      const most = value("most") === "" ? Infinity : Number(value("most"));
      const without = Array.from(form.querySelectorAll("[name=without]:checked"), (box) => box.value);
      const tiedOnly = get("tied") && get("tied").checked;
      const best = column(get("metric").value, get("ood").value).cellIndex;
      const cost = costColumn();
      let count = 0;
      for (const each of rows) {
        const price = cost ? numberOf(each.row.cells[cost.cellIndex]) : NaN;
        const marks = each.row.cells[best].classList;
        const kept = words.every((word) => each.words.includes(word)) &&
          (value("model") === "" || each.model === Number(value("model"))) &&
          (most === Infinity || price <= most) &&
          !without.some((need) => each.needs.includes(need)) &&
          (!without.length || each.row.dataset.needs !== undefined) &&
          (!tiedOnly || marks.contains("best") || marks.contains("tied"));
        each.row.hidden = !kept;
        count += kept;
      }
      for (const body of table.tBodies) {
        const section = body.querySelector(".section");
        if (section) section.hidden = !Array.from(body.rows).some((r) => r !== section && !r.hidden);
      }
      get("count").textContent = count + " of " + rows.length + (rows.length === 1 ? " method" : " methods") + " shown" +
        (count ? "" : ". No method fits these filters; Reset shows all.");
      if (get("front")) get("front").hidden = !count;
      get("board-part").hidden = !count;
    }

    function draw() {
      if (!get("chart")) return;
      const quality = column(get("metric").value, get("ood").value), cost = costColumn();
      const points = [];
      for (const each of rows) {
        if (each.row.hidden) continue;
        const cell = each.row.cells[quality.cellIndex];
        const price = each.row.cells[cost.cellIndex], x = numberOf(price), y = numberOf(cell);
        if (isNaN(x) || isNaN(y)) continue;
        points.push({
          x, y, each, interval: cell.title, margin: Number(price.dataset.margin || 0),
          marked: cell.classList.contains("best") || cell.classList.contains("tied"),
          note: cell.classList.contains("best") ? "best" :
            cell.classList.contains("tied") ? "tied with the best" : "",
        });
      }
      const metric = get("metric").selectedOptions[0].textContent;
      const names = get("model") ? Array.from(get("model").options).slice(1).map((o) => o.textContent) : [];
      drawChart(get("chart"), points, {
        quality: metric + " " + get("ood").selectedOptions[0].textContent + " (%)",
        cost: get("cost").selectedOptions[0].textContent,
        higher: quality.dataset.best === "max", names,
      }, get("front-text"));
    }

    function readAddress() {
      const wanted = new URLSearchParams(location.hash.slice(1));
      form.reset();
      for (const id of fields) {
        const value = wanted.get(id);
        if (value === null) continue;
        const field = get(id);
        if (field.options && !Array.from(field.options).some((o) => o.value === value)) continue;
        field.value = value;
      }
      for (const box of form.querySelectorAll("[name=without]")) {
        box.checked = wanted.getAll("without").includes(box.value);
      }
      if (get("tied")) get("tied").checked = wanted.has("tied");
      const more = form.querySelector("details");
      if (more && ["without", "most", "tied"].some((each) => wanted.has(each))) more.open = true;
    }
    function writeAddress() {
      const said = new URLSearchParams();
      for (const id of fields) {
        const field = get(id);
        const usual = field.options ? field.options[0].value : "";
        if (field.value !== usual) said.set(id, field.value);
      }
      for (const box of form.querySelectorAll("[name=without]:checked")) said.append("without", box.value);
      if (get("tied") && get("tied").checked) said.set("tied", "1");
      if (order() !== usual) said.set("sort", order());
      const text = said.toString();
      try { history.replaceState(null, "", text ? "#" + text : location.pathname + location.search); }
      catch (error) { /* the address stays as it is */ }
    }

    function update() { filterRows(); draw(); }
    form.addEventListener("input", function (event) {
      const id = event.target.id;
      if (id === "metric" || id === "ood" || id === "cost") showColumns();
      const sorted = heads.find((head) => head.hasAttribute("aria-sort"));
      if (id === "metric" || id === "ood" || sorted.hidden) sortByChoice();
      if (id === "cost" && get("most")) get("most").value = ""; // it had another unit
      update();
      writeAddress();
    });
    form.addEventListener("submit", (event) => event.preventDefault());
    get("clear").addEventListener("click", function () {
      form.reset();
      showColumns(); sortByChoice(); update(); writeAddress();
    });
    get("all-columns").addEventListener("input", function (event) {
      table.classList.toggle("all", event.target.checked);
    });
    addEventListener("hashchange", function () {
      readAddress(); showColumns(); sortByAddress(); update();
    });
    table.addEventListener("sorted", writeAddress);
    let width = 0;
    addEventListener("resize", function () {
      if (get("chart") && get("chart").clientWidth !== width) { width = get("chart").clientWidth; draw(); }
    });
    readAddress(); showColumns(); sortByAddress(); update();
  }

  // --- quality against cost ------------------------------------------------------------------
  function node(name, attributes, parent) {
    const made = document.createElementNS(SVG, name);
    for (const key in attributes) made.setAttribute(key, attributes[key]);
    if (parent) parent.append(made);
    return made;
  }

  function roundTicks(low, high, most) {
    const raw = (high - low) / Math.max(1, most - 1);
    const power = Math.pow(10, Math.floor(Math.log10(raw)));
    const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= raw * 0.999);
    const ticks = [];
    for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) ticks.push(n * step);
    return ticks;
  }

  function logTicks(low, high, most) {
    const ticks = [];
    for (const parts of [[1, 2, 5], [1, 3], [1]]) {
      ticks.length = 0;
      for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p++) {
        for (const part of parts) {
          const value = part * Math.pow(10, p);
          if (value >= low * 0.999 && value <= high * 1.001) ticks.push(value);
        }
      }
      if (ticks.length <= most) break;
    }
    return ticks.length > 1 ? ticks : roundTicks(low, high, most).filter((each) => each > 0);
  }

  function tickText(value) {
    return Math.abs(value) >= 1e6 ? value.toExponential(0) : String(Number(value.toPrecision(6)));
  }

  function frontOf(points, higher) {
    const sign = higher ? 1 : -1;
    const beats = (a, b) => a.y === b.y ? a.x < b.x
      : sign * a.y > sign * b.y && (a.x <= b.x || a.x - a.margin <= b.x + b.margin);
    const ranked = points.filter((p) => !p.each.oracle);
    return ranked.filter((p) => !ranked.some((other) => beats(other, p)))
      .sort((a, b) => a.x - b.x || sign * (b.y - a.y) || (a.each.name < b.each.name ? -1 : 1));
  }

  function drawChart(place, points, words, textPlace) {
    const before = place.querySelector("a[tabindex='0']");
    const chosenName = before ? before.dataset.name : null;
    place.replaceChildren();
    if (!points.length) {
      place.textContent = "No method that is shown has both a quality and this cost.";
      textPlace.textContent = "";
      return;
    }
    const width = Math.max(280, place.clientWidth), narrow = width < 560;
    const height = narrow ? 340 : 460;
    const margin = { left: 46, right: narrow ? 14 : 24, top: narrow ? 26 : 16, bottom: 42 };
    const xs = points.map((p) => p.x), ys = points.map((p) => p.y);
    const least = Math.min(...xs), most = Math.max(...xs);
    const log = least > 0 && most / least > 5;
    const f = log ? Math.log : (value) => value;
    const padX = Math.max(f(most) - f(least), log ? 0.2 : Math.abs(most) * 0.1 || 1) * 0.06;
    const x0 = f(least) - (narrow ? 1 : 2) * padX, x1 = f(most) + padX;
    const padY = Math.max(1, (Math.max(...ys) - Math.min(...ys)) * 0.06);
    const y0 = Math.max(-1, Math.min(...ys) - padY), y1 = Math.min(101.5, Math.max(...ys) + padY);
    const px = (value) => margin.left + (f(value) - x0) / (x1 - x0) * (width - margin.left - margin.right);
    const py = (value) => height - margin.bottom - (value - y0) / (y1 - y0) * (height - margin.top - margin.bottom);
    const front = frontOf(points, words.higher);
    const onFront = new Set(front);

    const svg = node("svg", { viewBox: "0 0 " + width + " " + height, role: "group" }, place);
    svg.setAttribute("aria-label", words.quality + " against " + words.cost + ", " + points.length +
      " methods. Use the arrow keys to go from method to method, cheapest first.");
    const grid = node("g", { class: "grid", "aria-hidden": "true" }, svg);
    const up = node("g", { class: "ticks up", "aria-hidden": "true" }, svg);
    for (const tick of roundTicks(y0, y1, 7).filter((each) => each >= 0 && each <= 100)) {
      node("path", { d: "M" + margin.left + " " + py(tick) + "H" + (width - margin.right) }, grid);
      node("text", { x: margin.left - 6, y: py(tick) + 4 }, up).textContent = tickText(tick);
    }
    const across = node("g", { class: "ticks across", "aria-hidden": "true" }, svg);
    const ends = log ? [Math.exp(x0), Math.exp(x1)] : [x0, x1];
    const xTicks = log ? logTicks(ends[0], ends[1], narrow ? 6 : 12) : roundTicks(ends[0], ends[1], narrow ? 5 : 9);
    for (const tick of xTicks.filter((each) => each >= 0)) {
      node("path", { d: "M" + px(tick) + " " + (height - margin.bottom) + "v5" }, grid);
      node("text", { x: px(tick), y: height - margin.bottom + 18 }, across).textContent = tickText(tick);
    }
    node("path", { d: "M" + margin.left + " " + (height - margin.bottom) + "H" + (width - margin.right) }, grid);
    node("text", { class: "axis", x: (margin.left + width - margin.right) / 2, y: height - 6, "aria-hidden": "true" }, svg)
      .textContent = words.cost + (log ? ", logarithmic" : "");
    node("text", { x: margin.left, y: height - 6, class: "cheaper", "aria-hidden": "true" }, svg).textContent =
      narrow ? "" : "\u2190 cheaper";
    const middle = (height - margin.bottom + margin.top) / 2;
    node("text", { class: "axis", transform: "translate(12 " + middle + ") rotate(-90)", "aria-hidden": "true" }, svg)
      .textContent = words.quality;
    let path = "";
    front.forEach(function (p, i) {
      path += i ? "H" + px(p.x).toFixed(1) + "V" + py(p.y).toFixed(1) : "M" + px(p.x).toFixed(1) + " " + py(p.y).toFixed(1);
    });
    if (front.length) node("path", { class: "front", d: path + "H" + (width - margin.right), "aria-hidden": "true" }, svg);

    const tip = document.createElement("div");
    tip.id = "tip";
    tip.hidden = true;
    const sorted = points.slice().sort((a, b) => a.x - b.x || a.y - b.y);
    const anchors = [];
    for (const p of sorted) {
      const link = node("a", { href: p.each.link.getAttribute("href"), tabindex: "-1" }, svg);
      link.dataset.name = p.each.name;
      link.classList.add("c" + p.each.model % 8);
      if (p.marked) link.classList.add("marked");
      const notes = [p.note, onFront.has(p) ? "on the Pareto front" : "", p.each.oracle ? "oracle" : ""].filter(Boolean);
      const lines = [words.quality.replace(" (%)", "") + ": " + p.y.toFixed(1) + " %" + (p.interval ? " (" + p.interval + ")" : ""),
        words.cost + ": " + tickText(Number(p.x.toPrecision(3))), notes.join(", ")].filter(Boolean);
      link.setAttribute("aria-label", p.each.name + ". " + lines.join(". "));
      const ends = (p.interval.match(/[\d.]+-[\d.]+$/) || p.interval.match(/[\d.]+-[\d.]+(?=;)/) || [""])[0].split("-");
      if (ends.length === 2) {
        node("path", { class: "bar", d: "M" + px(p.x) + " " + py(Math.max(y0, ends[0])) + "V" + py(Math.min(y1, ends[1])) }, link);
      }
      const at = "translate(" + px(p.x).toFixed(1) + " " + py(p.y).toFixed(1) + ")";
      node("circle", { class: "reach", r: 11, transform: at }, link);
      node("circle", { class: "halo", r: 11, transform: at }, link);
      node("path", { class: "dot", d: SHAPES[p.each.model % SHAPES.length], transform: at }, link);
      const show = function () {
        link.classList.add("on");
        p.each.row.classList.add("chosen");
        const name = document.createElement("strong");
        name.textContent = p.each.name;
        tip.replaceChildren(name, ...lines.map(function (line) {
          const part = document.createElement("span");
          part.textContent = line;
          return part;
        }));
        tip.hidden = false;
        const scale = place.clientWidth / width;
        const left = px(p.x) * scale, room = place.clientWidth - tip.offsetWidth;
        tip.style.left = Math.max(0, Math.min(room, left + 14 > room ? left - tip.offsetWidth - 14 : left + 14)) + "px";
        const top = py(p.y) * scale;
        tip.style.top = Math.max(0, top + 14 + tip.offsetHeight > height ? top - 14 - tip.offsetHeight : top + 14) + "px";
      };
      const hide = function () {
        link.classList.remove("on");
        p.each.row.classList.remove("chosen");
        tip.hidden = true;
      };
      link.addEventListener("mouseenter", show);
      link.addEventListener("mouseleave", hide);
      link.addEventListener("focus", show);
      link.addEventListener("blur", hide);
      link.addEventListener("keydown", function (event) {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        const index = anchors.indexOf(link);
        const next = event.key === "Home" ? 0 : event.key === "End" ? anchors.length - 1 :
          step ? Math.max(0, Math.min(anchors.length - 1, index + step)) : null;
        if (next === null) return;
        event.preventDefault();
        link.setAttribute("tabindex", "-1");
        anchors[next].setAttribute("tabindex", "0");
        anchors[next].focus();
      });
      p.link = link;
      anchors.push(link);
    }
    (anchors.find((each) => each.dataset.name === chosenName) || anchors[0]).setAttribute("tabindex", "0");
    labelPoints(svg, front.slice().reverse().concat(sorted.filter((p) => !onFront.has(p))), onFront, {
      px, py, left: margin.left, right: width - 4, top: 2, bottom: height - margin.bottom, narrow,
    });
    place.append(tip);
    addLegend(place, words.names, points);
    textPlace.textContent = "Pareto front: " + front.map((p) => p.each.name + " (" + p.y.toFixed(1) + ")").join(", ") + ".";
  }

  // Labels are placed where they cover neither points nor other labels, the front's first, farther
  // away and with a line if need be. Other methods without a place have no label: they show it when
  // they are pointed at.
  function labelPoints(svg, points, onFront, area) {
    const dots = points.map((p) => [area.px(p.x), area.py(p.y)]);
    const taken = [];
    const touches = (box, other) =>
      box[0] < other[2] && box[2] > other[0] && box[1] < other[3] && box[3] > other[1];
    const labels = points.map(function (p) {
      const main = onFront.has(p);
      if (area.narrow && !main) return null;
      const label = node("text", { class: "label " + (main ? "main" : "minor"), "aria-hidden": "true" }, svg);
      label.textContent = p.each.name.length > 34 ? p.each.name.slice(0, 32) + "\u2026" : p.each.name;
      return label;
    });
    const widths = labels.map((label) => label && label.getComputedTextLength()); // one layout for all
    points.forEach(function (p, index) {
      const main = onFront.has(p), label = labels[index], wide = widths[index];
      if (!label) return;
      const [x, y] = dots[index];
      for (const reach of main ? [10, 22, 36, 52, 70, 90] : [10]) {
        for (const turn of [0, 180, -35, 35, 215, 145, -90, 90, -60, 60, 240, 120]) {
          const angle = turn * Math.PI / 180;
          const a = x + reach * Math.cos(angle), b = y + reach * Math.sin(angle);
          const left = Math.abs(turn) === 90 ? a - wide / 2 : Math.cos(angle) > 0 ? a : a - wide;
          const box = [left, b - 7, left + wide, b + 7];
          // A label beside the point of another method would be read as its name.
          const free = box[0] >= area.left && box[2] <= area.right && box[1] >= area.top &&
            box[3] <= area.bottom && !taken.some((other) => touches(box, other)) &&
            !dots.some(([u, v], i) => touches(box, i === index ? [u - 6, v - 6, u + 6, v + 6] :
              [u - 13, v - 10, u + 13, v + 10]));
          if (!free) continue;
          label.setAttribute("x", left);
          label.setAttribute("y", b + 4);
          if (reach > 10) {
            const end = Math.max(left - 2, Math.min(left + wide + 2, x));
            svg.insertBefore(node("path", { class: "leader", d: "M" + x + " " + y + "L" + end + " " + b, "aria-hidden": "true" }), svg.querySelector("a"));
          }
          taken.push(box);
          return;
        }
      }
      label.remove();
    });
  }

  function addLegend(place, names, points) {
    if (names.length < 2) return;
    const shown = new Set(points.map((p) => p.each.model));
    const list = document.createElement("ul");
    list.className = "legend";
    names.forEach(function (name, number) {
      if (!shown.has(number)) return;
      const item = document.createElement("li");
      const svg = node("svg", { viewBox: "-8 -8 16 16", class: "c" + number % 8, "aria-hidden": "true" }, item);
      node("path", { d: SHAPES[number % SHAPES.length] }, svg);
      item.append(" " + name);
      list.append(item);
    });
    place.append(list);
  }

  document.addEventListener("DOMContentLoaded", function () {
    prepareTheme();
    document.querySelectorAll("table.sortable").forEach(prepareTable);
    const board = document.getElementById("board");
    if (board && document.getElementById("controls")) prepareBoard(board);
  });
})();
