"use strict";
// The pair viewer, on what page.js defines.
(() => {
  const data = JSON.parse(byId("pairs-data").textContent);
  const { texts, more, pairs } = data;
  const SIDES = ["chosen", "rejected"];
  const BEFORE = { name: null, label: "before training", scale: data.reference };
  const views = data.views.length ? [BEFORE, ...data.views] : [];
  const state = { at: 0, view: views.length ? 1 : 0, folded: true, promptShown: false, words: [], found: [] };

  // Numbers, as the rest of the page writes them.
  function number(value, digits = 2) {
    const text = value.toFixed(digits);
    return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "−");
  }
  function digitsFor(scale) {
    return scale > 0 ? Math.min(5, Math.max(2, 2 - Math.floor(Math.log10(scale)))) : 2;
  }
  function signed(value, digits) {
    const text = number(value, digits);
    return value > 0 && Number(value.toFixed(digits)) !== 0 ? `+${text}` : text;
  }

  // Text: hidden characters set off, matches of the search marked.
  const HIDDEN = /(⟨U\+[0-9A-F]{4,6}⟩)/;
  function escapeForPattern(word) {
    return word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  }
  function fill(element, text) {
    const words = state.words.map(escapeForPattern);
    const pattern = words.length ? new RegExp(`(${words.join("|")})`, "i") : null;
    for (const [i, part] of text.split(HIDDEN).entries()) {
      if (i % 2) element.append(make("span", "hidden-character", part));
      else if (!pattern) element.append(part);
      else part.split(pattern).forEach((piece, j) => element.append(j % 2 ? make("mark", "", piece) : piece));
    }
    return element;
  }
  function passage(index) {
    const parts = [fill(make("pre", ""), texts[index])];
    if (more[index]) parts.push(make("span", "more", `${more[index].toLocaleString("en")} more characters`));
    return parts;
  }

  // What a view says of a side: null where the pair is not scored.
  function turnsOf(pair, side, view) {
    if (!view || !pair[side].reference) return null;
    if (view === BEFORE) return pair[side].reference.map((reference) => ({ reference, value: 0 }));
    const rows = pair[side].values[view.name];
    if (!rows) return null;
    return rows.map(([policy, weight, value], turn) => {
      return { reference: pair[side].reference[turn], policy, weight, value };
    });
  }
  function total(turns) {
    return turns.reduce((sum, turn) => sum + turn.value, 0);
  }
  function marginOf(pair, view) {
    const [chosen, rejected] = SIDES.map((side) => turnsOf(pair, side, view));
    return chosen && rejected ? total(chosen) - total(rejected) : null;
  }
  function paint(element, value, scale) {
    const share = scale > 0 ? Math.min(1, Math.abs(value) / scale) : 0;
    element.classList.add(value < 0 ? "below" : "above");
    element.style.setProperty("--share", `${(100 * share).toFixed(1)}%`);
  }

  function actionCard(number_, action, turn, view) {
    const head = make("p", "turn-head", make("span", "", `turn ${number_}`));
    const card = make("li", "turn", head, ...passage(action));
    if (!view) return card;
    card.tabIndex = 0;
    let said = "not scored: the episode was cut before it";
    if (turn && view === BEFORE) {
      card.classList.add("plain");
      paint(card, turn.reference, view.scale);
      head.append(make("span", "value", number(turn.reference)));
      said = `log-probability under the reference ${number(turn.reference)} nats; log-ratio 0 by definition`;
    } else if (turn) {
      const digits = digitsFor(view.scale);
      paint(card, turn.value, view.scale);
      head.append(make("span", "value", signed(turn.value, digits)));
      const ratio = signed(turn.policy - turn.reference, 2);
      said = `log-probability ${number(turn.reference)} → ${number(turn.policy)} nats, log-ratio ${ratio}`;
      if (turn.weight !== null) {
        const weight = `weight ${number(turn.weight, 3)}`;
        const worth = signed(turn.value, digits);
        said += view.product ? `; × ${weight} × beta ${view.beta} = ${worth}` : `; ${weight}, implicit reward ${worth}`;
      }
    }
    card.append(make("p", "says", said));
    return card;
  }

  // The messages of a side from one to another, turns numbered from the side's first.
  function listOf(side, turns, view, from, to) {
    const list = make("ol", "");
    let turn = side.messages.slice(0, from).filter(([role]) => role === "assistant").length;
    for (const [role, index] of side.messages.slice(from, to)) {
      if (role === "assistant") {
        list.append(actionCard(turn + 1, index, turns ? turns[turn] : null, turns ? view : null));
        turn += 1;
      } else {
        list.append(make("li", "see", make("span", "unseen", `${role}: `), ...passage(index)));
      }
    }
    return list;
  }
  function twoColumns(pair, view, from, to) {
    const columns = SIDES.map((side) => {
      const column = make("div", `side ${side === "chosen" ? "good" : "bad"}`);
      column.append(listOf(pair[side], turnsOf(pair, side, view), view, from, to));
      return column;
    });
    return make("div", "sides", ...columns);
  }

  function switchButton(text, shown, act) {
    const button = make("button", "fold", text);
    button.type = "button";
    button.setAttribute("aria-expanded", String(shown));
    button.addEventListener("click", act);
    return button;
  }
  function plural(count, word) {
    return `${count} ${word}${count === 1 ? "" : "s"}`;
  }
  function turnCount(messages) {
    return messages.filter(([role]) => role === "assistant").length;
  }

  function headOf(pair) {
    const title = fill(make("h4", "pair-title"), texts[pair.id] || texts[pair.task]);
    const task = texts[pair.id].startsWith(texts[pair.task]) ? "" : texts[pair.task];
    const facts = [task, texts[pair.type]].filter(Boolean);
    if (pair.swapped) facts.push("swapped: the rollout beat the expert");
    const head = make("div", "pair-head", title);
    if (facts.length) head.append(fill(make("span", "why"), facts.join(" · ")));
    return head;
  }
  function marginLine(pair, view) {
    if (!view) return make("p", "margin quiet", "No turns were scored in this run.");
    const [chosen, rejected] = SIDES.map((side) => turnsOf(pair, side, view));
    if (!chosen || !rejected) return make("p", "margin quiet", "The turns of this pair were not scored.");
    if (view === BEFORE) {
      const [ours, theirs] = [chosen, rejected].map((turns) => number(turns.reduce((s, t) => s + t.reference, 0), 1));
      return make("p", "margin", `Log-probability under the reference: chosen ${ours}, rejected ${theirs} nats. All log-ratios are 0.`);
    }
    const digits = digitsFor(view.scale);
    const [ours, theirs] = [total(chosen), total(rejected)];
    const margin = ours - theirs;
    const what = view.weighted ? "Margin" : "Log-ratio, chosen less rejected,";
    const verdict = margin > 0 ? "the right way round" : margin < 0 ? "the wrong way round" : "undecided";
    const sum = `${what} ${signed(margin, digits)}`;
    return make("p", "margin", make("b", "", sum), ` = ${signed(ours, digits)} − (${signed(theirs, digits)}): ${verdict}.`);
  }

  function showPair() {
    const panel = byId("pair");
    panel.replaceChildren();
    const pair = pairs[state.at];
    const view = views[state.view];
    panel.append(headOf(pair), marginLine(pair, view));
    const prompt = switchButton(`Prompt, ${plural(pair.prompt.length, "message")}`, state.promptShown, turnPrompt);
    panel.append(prompt);
    if (state.promptShown) {
      const box = make("div", "prompt");
      for (const [role, index] of pair.prompt) box.append(make("p", "role", role), ...passage(index));
      panel.append(box);
    }
    const heads = SIDES.map((side) => {
      const { reward, messages } = pair[side];
      const facts = [reward === null ? "" : `reward ${number(reward)}`, plural(turnCount(messages), "turn")];
      const title = make("h5", "", side, " ", make("span", "", facts.filter(Boolean).join(", ")));
      return make("div", `side ${side === "chosen" ? "good" : "bad"}`, title);
    });
    panel.append(make("div", "sides heads", ...heads));
    if (pair.common) {
      const count = turnCount(pair.chosen.messages.slice(0, pair.common));
      const text = `${plural(count, "turn")} in common`;
      panel.append(switchButton(text, !state.folded, turnFold));
      if (!state.folded) panel.append(twoColumns(pair, view, 0, pair.common));
    }
    const oneEnds = SIDES.some((side) => pair[side].messages.length === pair.common);
    const where = oneEnds ? "here one of them ends" : pair.common ? "here they part" : "they part at the first turn";
    panel.append(make("p", "fork", make("span", "", where)));
    panel.append(twoColumns(pair, view, pair.common));
  }

  // The map: a cell for each pair, coloured by its margin.
  const cells = pairs.map((pair, at) => {
    const cell = make("button", "cell");
    cell.type = "button";
    cell.addEventListener("click", () => go(at));
    return cell;
  });
  byId("map").append(...cells);
  function showMap() {
    const view = views[state.view];
    const margins = pairs.map((pair) => marginOf(pair, view));
    const sizes = margins.filter((m) => m !== null).map(Math.abs).sort((a, b) => a - b);
    const scale = sizes.length ? sizes[Math.min(sizes.length - 1, Math.floor(0.95 * sizes.length))] : 0;
    const found = new Set(state.found);
    cells.forEach((cell, at) => {
      const margin = margins[at];
      cell.className = "cell";
      const known = margin !== null && view !== BEFORE;
      if (known) paint(cell, margin, scale);
      else cell.style.removeProperty("--share");
      cell.textContent = known ? (margin > 0 ? "+" : margin < 0 ? "−" : "0") : "·";
      cell.classList.toggle("elsewhere", !found.has(at));
      cell.tabIndex = at === state.at ? 0 : -1;
      if (at === state.at) cell.setAttribute("aria-current", "true");
      else cell.removeAttribute("aria-current");
      const name = texts[pairs[at].id] || texts[pairs[at].task];
      const said = known ? `margin ${signed(margin, digitsFor(view.scale))}` : view ? "no margin" : "";
      cell.title = [`${pairs[at].n}. ${name}`, said].filter(Boolean).join(", ");
      cell.setAttribute("aria-label", cell.title);
    });
  }

  function showLegend() {
    const legend = byId("scale");
    const view = views[state.view];
    legend.hidden = !view;
    if (!view) return;
    const digits = digitsFor(view.scale);
    const plain = view === BEFORE;
    legend.classList.toggle("plain", plain);
    byId("scale-low").textContent = plain ? `${number(-view.scale)} nats` : signed(-view.scale, digits);
    byId("scale-middle").textContent = "0";
    byId("scale-high").textContent = plain ? "" : signed(view.scale, digits);
    byId("scale-says").textContent = plain
      ? "log-probability of the turn under the reference; deeper colours are less likely turns"
      : !view.weighted
        ? "log-ratio of the turn, nats; this method weighs no turns"
        : `implicit reward of the turn${view.product ? ": beta × weight × log-ratio" : ""}`;
  }

  function showCount() {
    const place = state.found.indexOf(state.at);
    const of = `${place < 0 ? "–" : place + 1} of ${state.found.length}`;
    byId("count").textContent = state.words.length ? `${of} found` : of;
    byId("nothing").hidden = state.found.length > 0;
  }
  function show() {
    showPair();
    showMap();
    showLegend();
    showCount();
  }

  function go(at) {
    state.at = at;
    show();
    // An unfinished jump must not depend on how long the pair before was.
    const top = viewer.getBoundingClientRect().top;
    if (top < -40 || top > innerHeight - 200) viewer.scrollIntoView({ block: "start", behavior: "instant" });
  }
  function step(by) {
    if (!state.found.length) return;
    const place = state.found.indexOf(state.at);
    const next = place < 0 ? 0 : (place + by + state.found.length) % state.found.length;
    go(state.found[next]);
  }
  function turnFold() {
    state.folded = !state.folded;
    show();
  }
  function turnPrompt() {
    state.promptShown = !state.promptShown;
    show();
  }
  function choose(view) {
    state.view = view;
    byId("views").querySelectorAll("button").forEach((button, at) => {
      button.setAttribute("aria-pressed", String(at === view));
    });
    show();
  }

  // Search: every word must occur, in the task or in what was said.
  const haystacks = pairs.map((pair) => {
    const messages = [...pair.prompt, ...pair.chosen.messages, ...pair.rejected.messages];
    const indices = new Set([pair.id, pair.task, pair.type, ...messages.map(([, index]) => index)]);
    return [...indices].map((index) => texts[index].toLowerCase()).join("\n");
  });
  function search() {
    state.words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    state.found = [];
    haystacks.forEach((text, at) => {
      if (state.words.every((word) => text.includes(word))) state.found.push(at);
    });
    if (state.found.length && !state.found.includes(state.at)) state.at = state.found[0];
    show();
  }
  let waiting = 0;
  byId("search").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(search, 120);
  });
  byId("search").addEventListener("keydown", (event) => {
    if (event.key === "Enter") {
      search();
      event.target.blur();
    }
  });

  views.forEach((view, at) => {
    const button = make("button", "", view.label);
    button.type = "button";
    button.addEventListener("click", () => choose(at));
    byId("views").append(button);
  });
  byId("views").hidden = !views.length;
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("map").addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    step(by);
    cells[state.at].focus();
  });
  keys.set("j", () => step(1));
  keys.set("k", () => step(-1));
  keys.set("f", turnFold);
  keys.set("p", turnPrompt);
  keys.set("v", () => views.length && choose((state.view + 1) % views.length));
  keys.set("/", () => {
    viewer.scrollIntoView({ block: "start", behavior: "instant" });
    byId("search").focus();
    byId("search").select();
  });

  const viewer = byId("viewer");
  viewer.hidden = false;
  state.found = pairs.map((_, at) => at);
  choose(state.view);
})();
