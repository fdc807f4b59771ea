export function element(tag: string, text: string, className?: string): HTMLElement {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

export const byId = <Kind extends HTMLElement>(id: string) => document.getElementById(id) as Kind;

/** Touches the page only where the text is another one. */
export function setText(place: Element | undefined, text: string): void {
  if (place && place.textContent !== text) place.textContent = text;
}
