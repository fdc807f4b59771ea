/** Where something comes from: columns of captured tables (`shop.public.orders.qty`), and what could not be traced, in words. */
export interface Origin {
  readonly columns: ReadonlySet<string>;
  readonly unresolved: ReadonlySet<string>;
}

export const NOWHERE: Origin = { columns: new Set(), unresolved: new Set() };

export function fromColumn(column: string): Origin {
  return { columns: new Set([column]), unresolved: new Set() };
}

export function unresolved(why: string): Origin {
  return { columns: new Set(), unresolved: new Set([why]) };
}

export function merged(origins: readonly Origin[]): Origin {
  return {
    columns: new Set(origins.flatMap(({ columns }) => [...columns])),
    unresolved: new Set(origins.flatMap((one) => [...one.unresolved])),
  };
}

/** A table, or a SELECT in its place, as expressions beside it see it. */
export interface Relation {
  readonly name: string;
  readonly columns: readonly { readonly name: string; readonly origin: Origin }[];
  /** Why it may have columns that are not listed; null: it has none. */
  readonly opaque: string | null;
}

/** What names of columns mean in an expression. */
export interface Scope {
  readonly relations: readonly Relation[];
  /** Of expressions of the same SELECT, by their names: they count where no column is called so. */
  readonly named: (name: string) => Origin | null;
  /** Of the SELECT around this one. */
  readonly outer: Scope | null;
}

/**
 * What the name of a column means: `relation.column`, `column`, and either with fields of a struct behind; the name of a relation alone is its whole row.
 * DuckDB has bound the statement already, so a name that is found in one place is meant there.
 */
export function meant(names: readonly string[], scope: Scope): Origin {
  const [first = '', second] = names.map((name) => name.toLowerCase());
  const columnsOf = (relations: readonly Relation[], name: string) =>
    relations.flatMap(({ columns }) => columns.filter((one) => one.name.toLowerCase() === name).map(({ origin }) => origin));
  for (let at: Scope | null = scope; at; at = at.outer) {
    const same = at.relations.filter(({ name }) => name.toLowerCase() === first);
    if (second !== undefined && same.length > 0) {
      const found = columnsOf(same, second);
      if (found.length > 0) return merged(found);
    }
    const found = columnsOf(at.relations, first);
    if (found.length > 0) return merged(found);
    const [whole] = same;
    if (whole?.opaque === null && second === undefined) return merged(whole.columns.map(({ origin }) => origin));
    const known = second === undefined ? at.named(first) : null;
    if (known) return known;
    const hidden = (same.length > 0 ? same : at.relations).find(({ opaque }) => opaque !== null);
    if (hidden) return unresolved(`${names.join('.')}: ${hidden.opaque}`);
  }
  return unresolved(`${names.join('.')}: there is no column of that name to be seen`);
}
