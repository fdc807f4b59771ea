import { type Config, inputsOf, type TransformConfig, type TransformStep, wantsTable } from '@tributary/config';
import { Fault, unreachable } from '@tributary/core';
import type { Duck } from '@tributary/duckdb';
import { fromColumn, merged, NOWHERE, type Origin, unresolved } from './origin.ts';
import { parseExpression, visit } from './sql-tree.ts';

/** Changelogs there are, and how transforms make theirs. */
export type Estate = Pick<Config, 'sources' | 'transforms'>;

interface Table {
  readonly source: string;
  /** `schema.table`. */
  readonly table: string;
}

/** A table of an input, on its way through the steps of one transform. */
interface Way {
  readonly transform: TransformConfig;
  readonly input: Table;
}

/** What a column behind a step is made from: columns before it, by name, and what ends there. */
interface Made {
  readonly names: readonly string[];
  readonly origins?: readonly Origin[];
}

/**
 * Follows columns of what transforms write back to the tables of sources, through transforms of transforms too.
 *
 * Steps are read backwards, and names are all that is looked at: what an input looks like need not be known. So where it depends on that (does a
 * column that is set under a condition exist before?), or on code (a module), it is said what could not be followed: nothing is guessed.
 */
export class Upstream {
  readonly #estate: Estate;
  readonly #duck: Duck;

  constructor(estate: Estate, duck: Duck) {
    this.#estate = estate;
    this.#duck = duck;
  }

  /** Columns of sources that a column of a changelog's table is made from. */
  async column({ source, table }: Table, name: string): Promise<Origin> {
    return this.#over({ source, table }, fromColumn(`${source}.${table}.${name}`), (way) =>
      this.#through(way, name, way.transform.steps.length),
    );
  }

  /** Columns of sources that decide which rows a table of a changelog has. Nothing decides in a source. */
  async rows(of: Table): Promise<Origin> {
    return this.#over(of, NOWHERE, async (way) => {
      const origins = [await this.rows(way.input)];
      for (const [i, step] of way.transform.steps.entries()) {
        if (step.kind === 'filter') origins.push(await this.#expressions(way, i, [step.condition]));
        if (step.kind === 'route') origins.push(await this.#expressions(way, i, Object.values(step.tables)));
        if (step.kind === 'module')
          origins.push(unresolved(`${placeOf(way, i)}: which rows ${step.module} lets pass is not followed`));
      }
      return merged(origins);
    });
  }

  async #over(of: Table, own: Origin, follow: (way: Way) => Promise<Origin>): Promise<Origin> {
    const transform = this.#estate.transforms.find(({ name }) => name === of.source);
    if (!transform) return own;
    const origins: Origin[] = [];
    for (const input of this.#inputs(transform, of.table))
      origins.push(typeof input === 'string' ? unresolved(input) : await follow({ transform, input }));
    return merged(origins);
  }

  /** Tables whose rows go to a table of the result; words where it is not known which. */
  #inputs(transform: TransformConfig, table: string): (Table | string)[] {
    const { name, from, to, steps } = transform;
    const named = to !== undefined || steps.some(({ kind }) => kind === 'route' || kind === 'split');
    return from.flatMap((pattern): (Table | string)[] => {
      const [, ...rest] = pattern.split('.');
      const sources = inputsOf({ ...transform, from: [pattern], steps: [] }, this.#estate);
      if (!named)
        return sources.filter((source) => wantsTable({ from: [pattern] }, source, table)).map((source) => ({ source, table }));
      const wanted = rest.join('.');
      if (wanted.includes('*')) return [`transform ${name} reads ${pattern}: which tables these are is not followed`];
      return sources.map((source) => ({ source, table: wanted }));
    });
  }

  /** @param steps how many of them lie between the input and the column */
  async #through(way: Way, name: string, steps: number): Promise<Origin> {
    if (steps === 0) return this.column(way.input, name);
    const { names, origins = [] } = await this.#before(way, name, steps - 1);
    const followed: Origin[] = [...origins];
    for (const one of names) followed.push(await this.#through(way, one, steps - 1));
    return merged(followed);
  }

  async #before(way: Way, name: string, i: number): Promise<Made> {
    const step = way.transform.steps[i] as TransformStep;
    switch (step.kind) {
      case 'filter':
      case 'drop':
      case 'cast':
      case 'route':
      case 'split':
        return { names: [name] };
      case 'mask':
        return { names: step.columns[name]?.mask === 'null' ? [] : [name] };
      case 'rename':
        return { names: [Object.entries(step.columns).find(([, renamed]) => renamed === name)?.[0] ?? name] };
      case 'flatten': {
        const document = Object.entries(step.columns).findLast(([, paths]) => Object.hasOwn(paths, name));
        return { names: [document?.[0] ?? name] };
      }
      case 'set': {
        const value = step.columns[name];
        if (value === undefined) return { names: [name] };
        const origins = [await this.#expressions(way, i, step.when === null ? [value] : [value, step.when])];
        const read = step.when === null || (await this.#names(way, i, [value, step.when])).names.includes(name);
        if (!read) origins.push(await this.#unless(way, name, i, 'where its condition does not hold, it is what it was before'));
        return { names: [], origins };
      }
      case 'lookup': {
        const { table, on, set } = step.lookup;
        const column = set[name];
        if (column === undefined) return { names: [name] };
        const looked = [column, ...Object.keys(on)].map((one) => fromColumn(`${table}.${one}`));
        return { names: [], origins: [...looked, await this.#expressions(way, i, Object.values(on))] };
      }
      case 'module':
        return { names: [], origins: [await this.#unless(way, name, i, `what ${step.module} makes is not followed`)] };
      default:
        return unreachable(step);
    }
  }

  /** A column that a step may have left as it was, if it was there at all. */
  async #unless(way: Way, name: string, i: number, why: string): Promise<Origin> {
    const { columns, unresolved: others } = await this.#through(way, name, i);
    const was = [...columns].toSorted().join(', ');
    const text = `${placeOf(way, i)}, column ${name}: ${why}${was === '' ? '' : `; perhaps ${was}`}`;
    return { columns: new Set(), unresolved: new Set([text, ...others]) };
  }

  /** Expressions of a step, which see the row as it was before. */
  async #expressions(way: Way, i: number, expressions: readonly string[]): Promise<Origin> {
    const { names, origins = [] } = await this.#names(way, i, expressions);
    const followed = [...origins];
    for (const name of names) followed.push(await this.#through(way, name, i));
    return merged(followed);
  }

  async #names(way: Way, i: number, expressions: readonly string[]): Promise<Made> {
    const names = new Set<string>();
    const origins: Origin[] = [];
    for (const text of expressions) {
      try {
        visit((await parseExpression(this.#duck, text)).node, (node) => {
          if (node['class'] !== 'COLUMN_REF') return;
          const [name = ''] = node['column_names'] as string[];
          const plain = text.includes(`"${name}"`) ? name : name.toLowerCase();
          // Without a column that is called so it is the name of the input.
          if (plain !== 'source' || way.transform.steps.slice(0, i).some((step) => makes(step, plain))) names.add(plain);
        });
      } catch (error) {
        if (!(error instanceof Fault) || error.kind !== 'config_invalid') throw error;
        origins.push(unresolved(`${placeOf(way, i)}: an expression cannot be parsed`));
      }
    }
    return { names: [...names], origins };
  }
}

/** May there be a column of that name because of this step? */
function makes(step: TransformStep, name: string): boolean {
  if (step.kind === 'set') return Object.hasOwn(step.columns, name);
  if (step.kind === 'rename') return Object.values(step.columns).includes(name);
  if (step.kind === 'flatten') return Object.values(step.columns).some((paths) => Object.hasOwn(paths, name));
  if (step.kind === 'lookup') return Object.hasOwn(step.lookup.set, name);
  return step.kind === 'module';
}

function placeOf({ transform }: Way, i: number): string {
  return `transform ${transform.name}, step ${i + 1}`;
}
