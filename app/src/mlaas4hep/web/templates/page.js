// While a job waits or runs, fetch this page again and show its new content.
"use strict";
setInterval(async () => {
  const shown = document.querySelector("main");
  if (!shown.hasAttribute("data-active") || document.hidden) return;
  try {
    const answer = await fetch(location.href);
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    shown.replaceWith(document.adoptNode(page.querySelector("main")));
  } catch {
    // the server is away for a moment: the next round asks again
  }
}, 2000);
