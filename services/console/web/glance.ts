import type { AlertView, ProcessAlertView, StatusView } from '../src/wire.js';
import { element, setText } from './element.js';
import { bytes, capital, clock, count, duration, rate, words } from './format.js';
import { toneOf } from './problems.js';
import type { Tone } from './table.js';
import { lagTone, retainedTone } from './tables.js';
import { linkTo } from './views.js';

/** Lines of a process. */
const ATTENTION_SHOWN = 6;

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
    setText(label, figure.label);
    setText(value, figure.value);
    setText(note, figure.note);
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

/** What is wrong and what to do about it: failed actors first, then broken contracts and KPIs, then each process in one card. */
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
  const ofProcesses = status.alerts.filter((alert) => alert.kind === 'process');
  place.replaceChildren(
    ...faults.map(({ what, state, fault }) => {
      const card = element('article', '', 'fault');
      card.dataset['tone'] = state === 'failed' ? 'bad' : 'warn';
      const title = element('h3', what);
      title.append(element('span', state === 'failed' ? 'stands still until someone acts' : `${state}, tries again by itself`));
      card.append(title, element('p', fault?.message ?? ''), element('p', fault?.advice ?? '', 'advice'));
      return card;
    }),
    ...status.alerts.flatMap((alert) => (alert.kind === 'process' ? [] : [alertCard(alert)])),
    ...[...new Set(ofProcesses.map(({ process }) => process))].map((process) =>
      processCard(
        process,
        ofProcesses.filter((alert) => alert.process === process),
      ),
    ),
  );
  badge('processes', ofProcesses.length);
  badge('kpis', status.alerts.filter(({ kind }) => kind === 'kpi').length);
}

function alertCard(alert: Exclude<AlertView, ProcessAlertView>): HTMLElement {
  const card = element('article', '', 'fault');
  const acknowledged = alert.kind === 'kpi' ? alert.acknowledged : null;
  const firing = alert.kind === 'kpi' && alert.state !== 'pending' && acknowledged === null;
  card.dataset['tone'] = firing ? 'bad' : 'warn';
  const what = alert.kind === 'kpi' ? `KPI ${alert.kpi}: ${alert.alert}` : `Contract of ${alert.source}, ${alert.table}`;
  const title = element('h3', what);
  const how = alert.kind === 'kpi' ? alert.state.replace('_', ' ') : 'broken';
  title.append(element('span', `${how} since ${new Date(alert.raisedAt).toLocaleString()}`));
  card.append(title, element('p', alert.problem));
  if (acknowledged) card.append(element('p', `${acknowledged.by} has taken note of it.`, 'advice'));
  if (alert.owner) card.append(element('p', `${alert.owner} answers for it.`, 'advice'));
  return card;
}

/** What is wrong with a process, in a line each, the worst first. Which cases that are stands behind the link, as not everybody may know them. */
function processCard(process: string, alerts: readonly ProcessAlertView[]): HTMLElement {
  const card = element('article', '', 'card attention');
  const title = element(
    'h2',
    `${capital(words(process))}: ${alerts.length === 1 ? 'one thing needs' : `${alerts.length} things need`} attention`,
  );
  const link = element('a', 'See where, and which ones') as HTMLAnchorElement;
  link.href = linkTo('processes', process);
  const heading = element('div', '', 'heading');
  heading.append(title, link);
  const sorted = alerts.toSorted((a, b) => weight(b) - weight(a) || b.raisedAt - a.raisedAt);
  const list = element('ul', '', 'problems');
  for (const { problem, severity, raisedAt, acknowledged, alert } of sorted.slice(0, ATTENTION_SHOWN)) {
    const row = element('li', '', 'problem');
    row.dataset['tone'] = acknowledged ? 'quiet' : toneOf(severity);
    const noted = acknowledged ? ` · ${acknowledged.by} has taken note of it` : '';
    row.append(
      element('p', capital(problem)),
      element('small', `${alert} · since ${clock(new Date(raisedAt).toISOString())}${noted}`),
    );
    list.append(row);
  }
  if (sorted.length > ATTENTION_SHOWN) list.append(element('li', `and ${sorted.length - ATTENTION_SHOWN} more`, 'fine'));
  card.append(heading, list);
  return card;
}

function weight({ severity, acknowledged, on }: ProcessAlertView): number {
  const kind = on.includes('rule') ? 0.5 : 0;
  return acknowledged ? -1 : kind + (severity === 'critical' ? 2 : severity === 'info' ? 0 : 1);
}

/** How many alerts there are behind a link of the page. */
function badge(view: string, alerts: number): void {
  const place = document.querySelector(`nav a[href='#${view}'] b`);
  if (place) setText(place, alerts === 0 ? '' : String(alerts));
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
