import { z } from 'zod';
import type { CaseNames } from './case-condition.ts';
import { type ConformanceConfig, conformanceKeys, conformanceOf } from './process-rules.ts';
import { type WatchConfig, watchKeys, watchOf } from './process-watch.ts';

/** A process with every default filled in. JSON, so that it travels, and its fingerprint is its version. */
export interface ProcessConfig {
  readonly name: string;
  /** Type of the objects that are the cases. */
  readonly root: string;
  /** Parents before their children; the root is the first of those that have children. */
  readonly objects: readonly ObjectType[];
  readonly activities: readonly TransactionActivity[];
  /** What it should look like. */
  readonly conformance: ConformanceConfig;
  /** What is looked for beside, and whom it is told. */
  readonly watch: WatchConfig;
}

/** Rows of one table are objects of one type. */
export interface ObjectType {
  readonly name: string;
  readonly source: string;
  /** `schema.table`. */
  readonly table: string;
  /** Columns; null = the key of the table. */
  readonly key: readonly string[] | null;
  readonly state: string | null;
  /** Columns whose first value is an event. */
  readonly milestones: readonly string[];
  /** Columns that hold the key of a parent; the first that leads to the root decides. */
  readonly of: readonly { readonly parent: string; readonly column: string }[];
  /** What an insert is called: `<object> created`, or `<object> <state>` where it has a state. */
  readonly created: 'event' | 'state';
  /** What an update is that leaves the state as it was: no event, or `<object> <state>` once more, where the table is a log of its state. */
  readonly updated: 'none' | 'state';
}

/** Events of one transaction that are one event of this name. */
export interface TransactionActivity {
  readonly name: string;
  readonly when: EventPattern;
  /** Each must be there in the same transaction; those of objects that belong to the one of `when` are no events of their own. */
  readonly with: readonly EventPattern[];
}

export interface EventPattern {
  /** A type of object, or (`table`) a table beside that of `when`, as `schema.table`. */
  readonly object: string;
  readonly table: boolean;
  /** `insert`, `update` (of tables), `delete`, or a state that is reached. */
  readonly what: string;
}

const name = z.string().regex(/^[a-z][a-z0-9_]{0,39}$/, 'expected lower-case letters, digits and _ (at most 40, a letter first)');
const column = z.string().min(1, 'expected the name of a column');
const columns = z.union([column, z.array(column).min(1)], { error: 'expected a column, or a list of columns' });
const table = z
  .string()
  .regex(/^[a-z][a-z0-9_]*(\.[^.]+){1,2}$/, 'expected SOURCE.SCHEMA.TABLE, or SOURCE.TABLE for the schema public')
  .transform((text) => {
    const [source = '', ...rest] = text.split('.');
    return { source, table: rest.length === 1 ? `public.${rest[0]}` : rest.join('.') };
  });
const pattern = z
  .string()
  .regex(/^[A-Za-z_][^.]*\..+$/, 'expected OBJECT.insert, OBJECT.delete or OBJECT.STATE')
  .transform((text) => ({ object: text.slice(0, text.indexOf('.')), what: text.slice(text.indexOf('.') + 1) }));

const objectType = z.strictObject({
  table,
  key: columns.optional(),
  state: column.optional(),
  milestones: z.array(column).default([]),
  of: z.record(name, column).default({}),
  created: z.enum(['event', 'state'], 'expected event or state').default('event'),
  updated: z.enum(['none', 'state'], 'expected none or state').default('none'),
});

export const process = z
  .strictObject({
    kind: z.literal('Process'),
    spec: z.literal(1, 'expected 1').default(1),
    name,
    objects: z.record(name, objectType),
    root: name,
    events: z
      .array(
        z.strictObject({
          name: z.string().min(1),
          when: pattern,
          with: z.array(pattern).default([]),
          same_transaction: z.literal(true, 'expected true: other ways to join events are not built').default(true),
        }),
      )
      .default([]),
    ...conformanceKeys,
    ...watchKeys,
  })
  .superRefine((document, context) => {
    const { objects, root, events } = document;
    const complain = (message: string, ...path: (string | number)[]) => context.addIssue({ code: 'custom', path, message });
    const types = Object.entries(objects);
    if (!objects[root]) return complain(`there is no object ${root}`, 'root');
    if (Object.keys(objects[root].of).length > 0)
      return complain('the root belongs to nothing: leave out "of"', 'objects', root, 'of');
    const tables = new Map<string, string>();
    for (const [type, { table: one, of }] of types) {
      const place = `${one.source}.${one.table}`;
      const before = tables.get(place);
      if (before !== undefined) complain(`${place} is the table of ${before} already`, 'objects', type, 'table');
      tables.set(place, type);
      for (const parent of Object.keys(of))
        if (!objects[parent]) complain(`there is no object ${parent}`, 'objects', type, 'of', parent);
    }
    const ordered = parentsFirst(Object.fromEntries(types.map(([type, { of }]) => [type, Object.keys(of)])));
    for (const [type] of types)
      if (!ordered.includes(type)) complain(`${type} belongs to itself, by way of other objects`, 'objects', type, 'of');
    for (const [type] of types) {
      if (!ordered.includes(type) || type === root || leadsTo(root, type, objects)) continue;
      complain(`no "of" leads from ${type} to the root ${root}`, 'objects', type);
    }
    events.forEach(({ when, with: others }, i) => {
      if (!objects[when.object]) complain(`there is no object ${when.object}`, 'events', i, 'when');
      for (const one of others) {
        if (objects[one.object] && objects[one.object]?.table.source !== objects[when.object]?.table.source)
          complain(`${one.object} and ${when.object} are in two databases, which share no transaction`, 'events', i, 'with');
        if (objects[one.object] || ['insert', 'update', 'delete'].includes(one.what)) continue;
        complain(`of the table ${one.object} expected insert, update or delete`, 'events', i, 'with');
      }
    });
    conformanceOf(document, named(document), complain);
    watchOf(document, complain);
  });

export type ProcessDocument = z.output<typeof process>;

type Objects = ProcessDocument['objects'];

/** What rules can name. */
function named({ root, objects, events }: Pick<ProcessDocument, 'root' | 'objects' | 'events'>): {
  names: CaseNames;
  activities: string[];
} {
  const states = Object.fromEntries(Object.entries(objects).map(([type, { state }]) => [type, state ?? null]));
  return { names: { root, states }, activities: events.map(({ name: activity }) => activity) };
}

function leadsTo(root: string, type: string, objects: Objects): boolean {
  return Object.keys(objects[type]?.of ?? {}).some((parent) => parent === root || leadsTo(root, parent, objects));
}

/** Types in an order in which parents come before children; those in a circle are left out. */
function parentsFirst(parents: Readonly<Record<string, readonly string[]>>): string[] {
  const ordered: string[] = [];
  for (let more = true; more; ) {
    more = false;
    for (const [type, of] of Object.entries(parents)) {
      if (ordered.includes(type) || of.some((parent) => parents[parent] && !ordered.includes(parent))) continue;
      ordered.push(type);
      more = true;
    }
  }
  return ordered;
}

export function processOf(document: ProcessDocument): ProcessConfig {
  const { name: own, root, objects, events } = document;
  const ordered = parentsFirst(Object.fromEntries(Object.entries(objects).map(([type, { of }]) => [type, Object.keys(of)])));
  const types = ordered.map((type): ObjectType => {
    const { table: place, key, state, milestones, of, created, updated } = objects[type] as Objects[string];
    return {
      name: type,
      ...place,
      key: key === undefined ? null : [key].flat(),
      state: state ?? null,
      milestones,
      of: Object.entries(of).map(([parent, link]) => ({ parent, column: link })),
      created,
      updated,
    };
  });
  const activities = events.map((event): TransactionActivity => {
    const schema = types.find((type) => type.name === event.when.object)?.table.split('.')[0] ?? 'public';
    const patternOf = ({ object, what }: { object: string; what: string }): EventPattern =>
      objects[object] ? { object, what, table: false } : { object: `${schema}.${object}`, what, table: true };
    return { name: event.name, when: patternOf(event.when), with: event.with.map(patternOf) };
  });
  // Whatever could be complained of was, when the document was read.
  const conformance = conformanceOf(document, named(document), () => {});
  return { name: own, root, objects: types, activities, conformance, watch: watchOf(document, () => {}) };
}
