// Before anything is drawn: the theme that was chosen here, so that nothing flashes. No module, for modules run late.
try {
  const chosen = localStorage.getItem("heedful.theme");
  if (chosen) document.documentElement.dataset.theme = JSON.parse(chosen);
} catch {
  // No storage, or nothing of ours in it: as the system has it.
}
