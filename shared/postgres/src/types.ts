import type { PgType } from '@tributary/core';
import type { Session } from './session.ts';

interface TypeRow {
  readonly oid: number;
  readonly schema: string;
  readonly name: string;
  readonly typtype: 'b' | 'c' | 'd' | 'e' | 'p' | 'r' | 'm';
  readonly category: string;
  readonly element: number;
  readonly base: number;
  readonly typmod: number;
  readonly subtype: number;
  readonly labels: string[] | null;
  readonly fields: { name: string; oid: number; typmod: number }[] | null;
}

/** Everything a type tree needs, one row a type. A multirange's subtype is its range. */
const TYPES_SQL = `
SELECT t.oid::int8::float8 AS oid, n.nspname AS schema, t.typname AS name, t.typtype::text AS typtype, t.typcategory::text AS category,
       CASE WHEN t.typcategory = 'A' THEN t.typelem::int8::float8 ELSE 0 END AS element,
       t.typbasetype::int8::float8 AS base, t.typtypmod AS typmod,
       coalesce((SELECT CASE WHEN t.typtype = 'm' THEN r.rngtypid ELSE r.rngsubtype END
                   FROM pg_range r WHERE r.rngtypid = t.oid OR r.rngmultitypid = t.oid LIMIT 1), 0)::int8::float8 AS subtype,
       (SELECT json_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid) AS labels,
       (SELECT json_agg(json_build_object('name', a.attname, 'oid', a.atttypid::int8, 'typmod', a.atttypmod) ORDER BY a.attnum)
          FROM pg_attribute a WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped) AS fields
  FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
 WHERE t.oid = ANY ($1::oid[])`;

/**
 * Type trees by oid, looked up when first needed and kept. A database with hundreds of schemas costs only what
 * its captured columns use.
 */
export class TypeCatalog {
  readonly #rows = new Map<number, TypeRow>();
  readonly #trees = new Map<number, PgType>();

  /** Loads what is missing of these types and everything below them. */
  async load(session: Session, oids: Iterable<number>): Promise<void> {
    let wanted = [...new Set(oids)].filter((oid) => !this.#rows.has(oid));
    while (wanted.length > 0) {
      const rows = await session.rows<TypeRow>(TYPES_SQL, [wanted]);
      for (const row of rows) this.#rows.set(row.oid, row);
      // A type that was dropped since its rows were written: its text is all there is.
      for (const oid of wanted) if (!this.#rows.has(oid)) this.#rows.set(oid, unknownType(oid));
      const below = rows.flatMap((row) => [row.element, row.base, row.subtype, ...(row.fields ?? []).map((f) => f.oid)]);
      wanted = [...new Set(below)].filter((oid) => oid !== 0 && !this.#rows.has(oid));
    }
  }

  /** True when `load` has seen it. */
  has(oid: number): boolean {
    return this.#rows.has(oid);
  }

  /** Forgets everything: labels and fields may have changed. */
  clear(): void {
    this.#rows.clear();
    this.#trees.clear();
  }

  /** The tree of a loaded type. */
  tree(oid: number): PgType {
    const known = this.#trees.get(oid);
    if (known) return known;
    const row = this.#rows.get(oid) ?? unknownType(oid);
    const tree = this.#build(row);
    this.#trees.set(oid, tree);
    return tree;
  }

  #build(row: TypeRow): PgType {
    const same = { oid: row.oid, schema: row.schema, name: row.name };
    if (row.category === 'A' && row.element !== 0 && row.typtype === 'b')
      return { ...same, kind: 'array', of: this.tree(row.element) };
    switch (row.typtype) {
      case 'e':
        return { ...same, kind: 'enum', labels: row.labels ?? [] };
      case 'd':
        return { ...same, kind: 'domain', of: this.tree(row.base), typmod: row.typmod };
      case 'c':
        return {
          ...same,
          kind: 'composite',
          fields: (row.fields ?? []).map((f) => ({ name: f.name, type: this.tree(f.oid), typmod: f.typmod })),
        };
      case 'r':
        return { ...same, kind: 'range', of: this.tree(row.subtype) };
      case 'm':
        return { ...same, kind: 'multirange', of: this.tree(row.subtype) };
      default:
        return { ...same, kind: 'base' };
    }
  }
}

function unknownType(oid: number): TypeRow {
  return {
    oid,
    schema: 'pg_catalog',
    name: 'text',
    typtype: 'b',
    category: 'S',
    element: 0,
    base: 0,
    typmod: -1,
    subtype: 0,
    labels: null,
    fields: null,
  };
}
