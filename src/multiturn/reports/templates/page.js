"use strict";
// What the whole page needs. Text reaches it through textContent alone: nothing in it can become markup.
const root = document.documentElement;
const byId = (id) => document.getElementById(id);

function make(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
  return element;
}

// Theme: the system's until the reader says otherwise.
const systemIsDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : systemIsDark.matches);
const themeButton = byId("theme");
function showTheme() {
  themeButton.textContent = isDark() ? "Light theme" : "Dark theme";
}
function turnTheme() {
  root.dataset.theme = isDark() ? "light" : "dark";
  showTheme();
}
themeButton.hidden = false;
themeButton.addEventListener("click", turnTheme);
systemIsDark.addEventListener("change", showTheme);
showTheme();

const keys = new Map([["d", turnTheme]]);
document.addEventListener("keydown", (event) => {
  const target = event.target;
  const typing = target instanceof HTMLElement && /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName);
  if (event.key === "Escape" && typing) target.blur();
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const act = keys.get(event.key);
  if (act) {
    event.preventDefault();
    act();
  }
});
