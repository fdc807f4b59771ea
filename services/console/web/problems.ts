import { capital, clock, many, plural, words } from './format.js';
import { element } from './element.js';
import type { Tone } from './table.js';
import { linkTo } from './views.js';

/** As `GET /v1/processes/{p}/problems` tells it. */
export interface Problem {
  readonly kind: string;
  readonly rule: string;
  readonly severity: string;
  readonly words: string;
  readonly also: readonly { readonly rule: string; readonly words: string; readonly cases: number }[];
  readonly cases: number;
  readonly since: string | null;
  readonly newest: readonly { readonly case: string | null; readonly at: string; readonly reason: string }[];
}

interface Panel {
  readonly place: string;
  readonly kinds: readonly string[];
  title(root: string): string;
  readonly fine: string;
}

const PANELS: readonly Panel[] = [
  {
    place: 'problems-stuck',
    kinds: ['stuck', 'missing'],
    title: (root) => `Where ${plural(words(root))} get stuck`,
    fine: 'Nothing is stuck: everything moves on as fast as usual.',
  },
  {
    place: 'problems-rules',
    kinds: ['rule', 'sla'],
    title: (root) => `Which rule was broken by which ${words(root)}`,
    fine: 'No rule is broken.',
  },
  { place: 'problems-other', kinds: ['silent', 'drift'], title: () => 'What else is not as usual', fine: '' },
];

/** What is wrong with a process, in sentences, each with the cases it is about: they are links to the way of the case. */
export function showProblems(process: { readonly name: string; readonly root: string }, problems: readonly Problem[]): void {
  for (const { place, kinds, title, fine } of PANELS) {
    const own = problems.filter(({ kind }) => kinds.includes(kind));
    const wrong = own.filter(({ cases }) => cases > 0);
    const kept = own.filter(({ cases }) => cases === 0);
    const panel = document.getElementById(place) as HTMLElement;
    panel.hidden = fine === '' && wrong.length === 0;
    const seen = JSON.stringify([process, own]);
    // Untouched while it stays as it is, so that a link that somebody aims at does not move.
    if (panel.dataset['seen'] === seen) continue;
    panel.dataset['seen'] = seen;
    const list = element('ul', '', 'problems');
    list.append(...wrong.map((one) => problemOf(one, process)));
    if (wrong.length === 0) list.append(element('li', fine, 'fine'));
    if (kept.length > 0)
      list.append(element('li', `Kept by every ${words(process.root)}: ${kept.map(({ rule }) => rule).join(', ')}.`, 'fine'));
    panel.replaceChildren(element('h3', title(process.root)), list);
  }
}

export function toneOf(severity: string): Tone {
  return severity === 'critical' ? 'bad' : severity === 'info' ? 'quiet' : 'warn';
}

function problemOf(
  { rule, severity, words: told, also, cases, since, newest }: Problem,
  process: { name: string; root: string },
) {
  const row = element('li', '', 'problem');
  row.dataset['tone'] = toneOf(severity);
  row.dataset['rule'] = rule;
  const how = [rule, ...(severity === 'warning' ? [] : [severity]), ...(since === null ? [] : [`since ${clock(since)}`])];
  row.append(element('b', many(cases, process.root), 'many'), element('p', capital(told)), element('small', how.join(' · ')));
  if (also.length > 0) row.append(element('small', `Also: ${also.map((one) => one.words).join('; ')}`));
  const links = element('p', '', 'chips');
  for (const one of newest) {
    if (one.case === null) continue;
    const link = element('a', one.case, 'chip') as HTMLAnchorElement;
    link.href = linkTo('processes', process.name, one.case);
    link.title = `${one.reason} (${clock(one.at)})`;
    links.append(link);
  }
  const more = cases - links.children.length;
  if (more > 0 && links.children.length > 0) links.append(element('span', `and ${more} more`));
  if (links.children.length > 0) row.append(links);
  return row;
}
