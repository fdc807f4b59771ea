const VIEWS = ['overview', 'processes', 'kpis', 'system'] as const;

export type View = (typeof VIEWS)[number];

/** Where somebody is: `#processes/order_to_delivery/4711` is the case 4711 of that process. */
export interface Place {
  readonly view: View;
  readonly rest: readonly string[];
}

/** Shows the part of the page that the address names, now and whenever that changes; links are ordinary ones, so that each place can be sent to somebody. */
export function followViews(shown: (place: Place) => void): void {
  const show = () => {
    const place = placeOf(location.hash);
    for (const part of document.querySelectorAll<HTMLElement>('[data-view]')) part.hidden = part.dataset['view'] !== place.view;
    for (const link of document.querySelectorAll<HTMLAnchorElement>('nav a'))
      link.ariaCurrent = placeOf(link.hash).view === place.view ? 'page' : null;
    shown(place);
  };
  addEventListener('hashchange', show);
  show();
}

export function linkTo(view: View, ...rest: readonly string[]): string {
  return `#${[view, ...rest.map(encodeURIComponent)].join('/')}`;
}

function placeOf(hash: string): Place {
  const [view, ...rest] = hash.replace(/^#/, '').split('/').map(decoded);
  return { view: VIEWS.find((one) => one === view) ?? 'overview', rest };
}

/** An address that somebody typed may be anything. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
