import type { StatusView } from '../src/wire.js';
import { bytes, count, duration, rate } from './format.js';
import type { Tone } from './table.js';
import { lagTone, retainedTone } from './tables.js';

interface Figure {
  readonly label: string;
  readonly value: string;
  readonly note: string;
  readonly tone?: Tone | undefined;
}

/** The few figures that tell at a glance whether all is well. */
export function showFigures(list: HTMLElement, status: StatusView): void {
  const figures = figuresOf(status);
  if (list.children.length !== figures.length) list.replaceChildren(...figures.map(emptyFigure));
  figures.forEach((figure, index) => {
    const [label, value, note] = list.children[index]?.children ?? [];
    set(label, figure.label);
    set(value, figure.value);
    set(note, figure.note);
    (value as HTMLElement).dataset['tone'] = figure.tone ?? '';
  });
}

function figuresOf(status: StatusView): Figure[] {
  const slowest = greatest(status.projections, (one) => one.lagMs);
  const fullest = greatest(status.sources, (one) => one.slot?.retainedBytes ?? null);
  const rates = status.sources.map((one) => one.changesPerSecond).filter((one) => one !== null);
  const stored = status.changelogs.reduce((sum, one) => sum + one.bytes, 0);
  const running = status.sources.filter((one) => one.state === 'running').length;
  return [
    {
      label: 'Changes per second',
      value: rate(rates.length === 0 ? null : rates.reduce((sum, one) => sum + one, 0)),
      note: `${running} of ${status.sources.length} sources running`,
    },
    {
      label: 'Slowest projection',
      value: duration(slowest?.lagMs ?? null),
      note: slowest?.name ?? 'none',
      tone: lagTone(slowest?.lagMs ?? null),
    },
    {
      label: 'Most WAL kept',
      value: bytes(fullest?.slot?.retainedBytes ?? null),
      note: fullest?.name ?? 'no slot',
      tone: retainedTone(fullest?.slot ?? null),
    },
    {
      label: 'Changelogs',
      value: bytes(stored),
      note: `${count(status.changelogs.reduce((sum, one) => sum + one.messages, 0))} messages`,
    },
  ];
}

/** What is wrong and what to do about it, failed actors first. */
export function showFaults(place: HTMLElement, status: StatusView): void {
  const faults = [
    ...status.sources.map((one) => ({ ...one, what: `Source ${one.name}` })),
    ...status.projections.map((one) => ({ ...one, what: `Projection ${one.name}` })),
  ]
    .filter((one) => one.fault !== null && one.state !== 'running')
    .sort((a, b) => Number(b.state === 'failed') - Number(a.state === 'failed'));
  const seen = JSON.stringify([faults.map((one) => [one.what, one.state, one.fault]), status.alerts]);
  if (place.dataset['seen'] === seen) return;
  place.dataset['seen'] = seen;
  place.hidden = faults.length === 0 && status.alerts.length === 0;
  place.replaceChildren(
    ...faults.map(({ what, state, fault }) => {
      const card = element('article', '', 'fault');
      card.dataset['tone'] = state === 'failed' ? 'bad' : 'warn';
      const title = element('h3', what);
      title.append(element('span', state === 'failed' ? 'stands still until someone acts' : `${state}, tries again by itself`));
      card.append(title, element('p', fault?.message ?? ''), element('p', fault?.advice ?? '', 'advice'));
      return card;
    }),
    ...status.alerts.map((alert) => {
      const { problem, owner, raisedAt } = alert;
      const card = element('article', '', 'fault');
      const firing = alert.kind !== 'contract' && alert.state !== 'pending' && alert.acknowledged === null;
      card.dataset['tone'] = firing ? 'bad' : 'warn';
      const what =
        alert.kind === 'kpi'
          ? `KPI ${alert.kpi}: ${alert.alert}`
          : alert.kind === 'process'
            ? `Process ${alert.process}: ${alert.alert}`
            : `Contract of ${alert.source}, ${alert.table}`;
      const title = element('h3', what);
      const how = alert.kind === 'contract' ? 'broken' : alert.state.replace('_', ' ');
      title.append(element('span', `${how} since ${new Date(raisedAt).toLocaleString()}`));
      card.append(title, element('p', problem));
      if (alert.kind !== 'contract' && alert.acknowledged)
        card.append(element('p', `${alert.acknowledged.by} has taken note of it.`, 'advice'));
      if (owner) card.append(element('p', `${owner} answers for it.`, 'advice'));
      return card;
    }),
  );
}

function greatest<Item>(items: readonly Item[], measure: (item: Item) => number | null): Item | null {
  let best: Item | null = null;
  for (const item of items) {
    const size = measure(item);
    if (size !== null && (best === null || size > (measure(best) ?? 0))) best = item;
  }
  return best;
}

function emptyFigure(): HTMLElement {
  const figure = document.createElement('div');
  figure.append(element('dt', ''), element('dd', ''), element('dd', ''));
  return figure;
}

function element(tag: string, text: string, className?: string): HTMLElement {
  const made = document.createElement(tag);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function set(place: Element | undefined, text: string): void {
  if (place && place.textContent !== text) place.textContent = text;
}
