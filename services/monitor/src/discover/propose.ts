import { type ColumnSurvey, isTime, type TableSurvey } from './survey.ts';

/** One part of a proposal, with what speaks for it. */
interface Found {
  /** 0 to 1; the higher, the more speaks for it. */
  readonly score: number;
  readonly evidence: string;
}

export interface FoundState extends Found {
  readonly column: string;
  /** Objects begin in several states: an insert is named after its state. */
  readonly created: 'event' | 'state';
  /** Nothing else ever changes in the table, and its state is also written again: every update is a step. */
  readonly updated: 'none' | 'state';
}

export interface FoundLink extends Found {
  readonly column: string;
  /** The database says so itself. */
  readonly declared: boolean;
  /** `source.schema.table`. */
  readonly parent: string;
}

export interface FoundObject {
  readonly name: string;
  readonly source: string;
  /** `schema.table`. */
  readonly table: string;
  readonly objects: number;
  readonly state: FoundState | null;
  readonly milestones: readonly (Found & { readonly column: string })[];
  readonly links: readonly FoundLink[];
}

/** A foreign key of one column. */
export interface Declared {
  /** `source.schema.table`, and the column in it. */
  readonly child: string;
  readonly column: string;
  readonly parent: string;
  /** The column of the parent. */
  readonly key: string;
}

/** One process that the changes show: a root and what belongs to it. */
export interface Proposal extends Found {
  readonly name: string;
  readonly root: string;
  /** The root first. */
  readonly objects: readonly FoundObject[];
}

/** Fewer objects than this show nothing. */
const OBJECTS_MIN = 5;
const CONTAINED_MIN = 0.99;
/** Of the changes of a state: how many must go one way between two states. */
const ONE_WAY_MIN = 0.9;
const MILESTONE_MIN = 0.05;

/**
 * Ranks what a survey shows, best first: a root is a table with a state, or one that others' states hang on, to which other tables'
 * columns lead; every table with a state that leads to it, by whatever way, belongs to it.
 */
export function propose(tables: readonly TableSurvey[], declared: readonly Declared[]): Proposal[] {
  const large = tables.filter(({ objects }) => objects.size >= OBJECTS_MIN);
  const names = namesOf(large);
  const found = large.map((table): FoundObject => {
    const links = linksOf(table, large, declared);
    return {
      name: names.get(idOf(table)) as string,
      source: table.source,
      table: table.table,
      objects: table.objects.size,
      state: stateOf(table, links),
      milestones: milestonesOf(table),
      links,
    };
  });
  const proposals = found.flatMap((root) => {
    const belonging = below(root, found);
    const parts = [{ ...root, links: [] }, ...belonging];
    const lively = parts.filter(({ state, milestones }) => state ?? milestones[0]);
    if (
      !root.state ||
      (belonging.length === 0 && root.links.some(({ parent }) => found.some((one) => one.state && idOf(one) === parent)))
    )
      return [];
    const links = belonging.map(({ links: own }) => Math.max(...own.map(({ score }) => score)));
    const mean = [root.state.score, ...links].reduce((sum, one) => sum + one, 0) / (links.length + 1);
    const sources = new Set(parts.map(({ source }) => source)).size;
    const score = mean * (1 - 1 / (1 + lively.length + sources));
    const evidence = `${belonging.length} type(s) of object belong to it, in ${sources} database(s); ${lively.length} have a state or a milestone`;
    return [{ name: `${root.name}_process`.slice(0, 40), root: root.name, objects: parts, score, evidence }];
  });
  return proposals.toSorted((a, b) => b.score - a.score || (a.name < b.name ? -1 : 1));
}

/** Everything that leads to the root; of several ways the best. Tables without anything that happens to them are left out, unless others lead through them. */
function below(root: FoundObject, found: readonly FoundObject[]): FoundObject[] {
  const inside = new Map<string, FoundObject>([[idOf(root), { ...root, links: [] }]]);
  for (let more = true; more; ) {
    more = false;
    for (const one of found) {
      if (inside.has(idOf(one))) continue;
      const links = one.links.filter(({ parent }) => inside.has(parent));
      if (links.length === 0) continue;
      inside.set(idOf(one), { ...one, links: [links[0] as FoundLink] });
      more = true;
    }
  }
  return [...inside.values()].slice(1);
}

/** Of columns with few values, the one whose changes are most of the life, and go one way. */
function stateOf(table: TableSurvey, links: readonly FoundLink[]): FoundState | null {
  const ranked = table.columns.flatMap((column): FoundState[] => {
    const { name, starts, moves, sqlType, passed } = column;
    if (!starts || table.key.includes(name) || links.some((link) => link.column === name)) return [];
    if (isTime(sqlType) || /^(numeric|double|real|boolean)/.test(sqlType)) return [];
    const changes = [...moves.values()].reduce((sum, n) => sum + n, 0);
    const oneWay = oneWayShare(column);
    if (changes < OBJECTS_MIN || oneWay < ONE_WAY_MIN) return [];
    const begun = [...starts.values()].reduce((sum, n) => sum + n, 0);
    const share = Math.min(1, changes / table.objects.size);
    const states = new Set([...starts.keys(), ...[...moves.keys()].flatMap((move) => move.split('\x1f'))]);
    // A value that says something comes again and again.
    const common = 1 - states.size / Math.max(states.size + 1, begun);
    const updated = passed === 0 && table.touches > 0 ? 'state' : 'none';
    const created = starts.size > 1 || updated === 'state' ? 'state' : 'event';
    const again = updated === 'state' ? `, written again ${table.touches} times` : '';
    const evidence = `${states.size} values; ${changes} changes of ${table.objects.size} objects, ${percent(oneWay)} one way${again}; begins in ${starts.size}`;
    return [{ column: name, score: oneWay * share * common, evidence, created, updated }];
  });
  return ranked.toSorted((a, b) => b.score - a.score)[0] ?? null;
}

function oneWayShare({ moves }: ColumnSurvey): number {
  let [forth, all] = [0, 0];
  for (const [move, n] of moves) {
    const [from, to] = move.split('\x1f') as [string, string];
    const back = moves.get(`${to}\x1f${from}`) ?? 0;
    all += n;
    // Of a pair that goes both ways, the more frequent one.
    if (n > back || (n === back && from < to)) forth += n;
  }
  return all === 0 ? 0 : forth / all;
}

function milestonesOf(table: TableSurvey): (Found & { column: string })[] {
  return table.columns.flatMap(({ name, sqlType, reached, cleared }) => {
    const share = reached / table.objects.size;
    if (!isTime(sqlType) || share < MILESTONE_MIN || cleared > reached * (1 - ONE_WAY_MIN)) return [];
    return [
      { column: name, score: Math.min(1, share), evidence: `became a time in ${reached} of ${table.objects.size} objects` },
    ];
  });
}

/**
 * Columns that lead to another table, best first: declared foreign keys, and columns whose values are keys of it. Small whole numbers are keys
 * of every table, so what they are called and that the child comes after its parent speak for a link beside the containment.
 */
function linksOf(table: TableSurvey, tables: readonly TableSurvey[], declared: readonly Declared[]): FoundLink[] {
  const found = table.columns.flatMap(({ name }, c): FoundLink[] => {
    const foreign = declared.filter(({ child, column }) => child === idOf(table) && column === name);
    const certain = foreign.flatMap((one) => declaredLink(one, { table, c, tables }) ?? []);
    return certain.length > 0 ? certain.slice(0, 1) : shownLinks(table, c, tables);
  });
  return found.toSorted((a, b) => Number(b.declared) - Number(a.declared) || b.score - a.score);
}

/** Null: it leads to no key, or to a table of which too little is seen. */
function declaredLink(
  { parent: to, key }: Declared,
  { table, c, tables }: { table: TableSurvey; c: number; tables: readonly TableSurvey[] },
): FoundLink | null {
  const parent = tables.find((one) => idOf(one) === to);
  if (!parent || parent.key.length !== 1 || parent.key[0] !== key) return null;
  const { inOrder, timed } = contain(table, c, parent);
  const evidence = `declared foreign key to ${to}; ${inOrder} of ${timed} came after it`;
  return { column: table.columns[c]?.name ?? '', parent: to, score: 1, evidence, declared: true };
}

function shownLinks(table: TableSurvey, c: number, tables: readonly TableSurvey[]): FoundLink[] {
  const { name, sqlType } = table.columns[c] as ColumnSurvey;
  if (table.key.length === 1 && table.key[0] === name) return [];
  const ranked = tables.flatMap((parent): FoundLink[] => {
    const key = parent.columns.find((column) => column.name === parent.key[0]);
    if (parent === table || parent.key.length !== 1 || !key || familyOf(key.sqlType) !== familyOf(sqlType)) return [];
    const named = isNamedAfter(name, parent.table);
    const { values, contained, inOrder, timed } = contain(table, c, parent);
    const share = values === 0 ? 0 : contained / values;
    const ordered = timed === 0 ? 1 : inOrder / timed;
    if (values < OBJECTS_MIN || share < CONTAINED_MIN || ordered < CONTAINED_MIN || !named) return [];
    const evidence = `${percent(share)} of ${values} values are keys of ${idOf(parent)}; ${inOrder} of ${timed} came after it`;
    return [{ column: name, parent: idOf(parent), score: share * ordered, evidence, declared: false }];
  });
  return ranked.toSorted((a, b) => b.score - a.score).slice(0, 1);
}

function contain(
  table: TableSurvey,
  c: number,
  parent: TableSurvey,
): { values: number; contained: number; inOrder: number; timed: number } {
  const counts = { values: 0, contained: 0, inOrder: 0, timed: 0 };
  for (const { row, bornUs } of table.objects.values()) {
    const value = row[c];
    if (value === null || value === undefined) continue;
    const found = parent.objects.get(JSON.stringify([value]));
    counts.values++;
    if (!found) continue;
    counts.contained++;
    if (bornUs === null || found.bornUs === null) continue;
    counts.timed++;
    if (bornUs >= found.bornUs) counts.inOrder++;
  }
  return counts;
}

/** `order_id`, `order_ref`, `orders` or `fk_order` are named after `public.orders`. */
function isNamedAfter(column: string, table: string): boolean {
  const own = singular(table.split('.').at(-1) ?? table);
  return column.toLowerCase().includes(own.toLowerCase());
}

function singular(word: string): string {
  if (/ies$/i.test(word)) return word.replace(/ies$/i, 'y');
  return /(ss|us|is)$/i.test(word) ? word : word.replace(/s$/i, '');
}

function familyOf(sqlType: string): string {
  if (/^(smallint|integer|bigint|numeric)/.test(sqlType)) return 'number';
  return /^(text|character|varchar|citext)/.test(sqlType) ? 'text' : sqlType;
}

const idOf = ({ source, table }: { readonly source: string; readonly table: string }) => `${source}.${table}`;
const percent = (share: number) => `${(share * 100).toFixed(1)} %`;

/** `orders` becomes `order`; of two tables that would have the same name both have their source's before it. */
function namesOf(tables: readonly TableSurvey[]): Map<string, string> {
  const plain = (table: TableSurvey) =>
    singular(table.table.split('.').at(-1) ?? '')
      .toLowerCase()
      .replaceAll(/[^a-z0-9_]+/g, '_')
      .replace(/^[^a-z]+/, '')
      .slice(0, 24) || 'object';
  return new Map(
    tables.map((table) => {
      const alike = tables.filter((other) => plain(other) === plain(table)).length > 1;
      return [idOf(table), alike ? `${table.source}_${plain(table)}`.slice(0, 40) : plain(table)];
    }),
  );
}

/** The proposal as a document of kind: Process, with the evidence as comments. Best first, so that the first one is the one to begin with. */
export function proposalYaml({ name, root, objects, score, evidence }: Proposal): string {
  const lines = [
    `# Score ${score.toFixed(2)}: ${evidence}`,
    'kind: Process',
    'spec: 1',
    `name: ${name}`,
    `root: ${root}`,
    'objects:',
  ];
  const nameOf = (parent: string) => objects.find((one) => idOf(one) === parent)?.name ?? parent;
  for (const one of objects) {
    lines.push(`  ${one.name}: # ${one.objects} objects`, `    table: ${quoted(idOf(one))}`);
    if (one.state) lines.push(`    state: ${quoted(one.state.column)} # ${one.state.evidence}`);
    if (one.state?.created === 'state') lines.push('    created: state');
    if (one.state?.updated === 'state') lines.push('    updated: state');
    const { milestones, links } = one;
    if (milestones.length > 0)
      lines.push(
        `    milestones: [${milestones.map(({ column }) => quoted(column)).join(', ')}] # ${milestones.map((m) => m.evidence).join('; ')}`,
      );
    for (const link of links) lines.push(`    of: { ${nameOf(link.parent)}: ${quoted(link.column)} } # ${link.evidence}`);
  }
  return `${lines.join('\n')}\n`;
}

function quoted(text: string): string {
  return /^[a-z_][a-z0-9_.]*$/i.test(text) ? text : JSON.stringify(text);
}
