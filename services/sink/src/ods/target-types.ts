import type { ColumnSchema, PgType, TableSchema } from '@tributary/core';
import { quoteIdent, quoteLiteral, quoteTable, type Session } from '@tributary/postgres';
import { ensureSchema } from './ensure-schema.ts';

/** Names a source's schema in the target. */
export type SchemaMap = (schema: string) => string;

/** Namespaces whose types every PostgreSQL has. */
const BUILT_IN = new Set(['pg_catalog', 'information_schema']);

/**
 * Recreates the types of columns in the target: enums, domains, composites and ranges in the schema their source schema
 * maps to; arrays through their element; types of extensions where the target has the extension, else as text.
 */
export class TargetTypes {
  readonly #schemaOf: SchemaMap;
  /** Enum labels known to be there, by type name. */
  readonly #labels = new Map<string, Set<string>>();
  readonly #made = new Set<string>();
  readonly #foreign = new Map<string, string>();
  /** Types made by the transaction that is open: its own labels may be used before it commits. */
  readonly #fresh = new Set<string>();

  constructor(schemaOf: SchemaMap) {
    this.#schemaOf = schemaOf;
  }

  /** What the target has is looked up anew: a transaction was rolled back. */
  forget(): void {
    this.#labels.clear();
    this.#made.clear();
    this.#fresh.clear();
  }

  committed(): void {
    this.#fresh.clear();
  }

  /** Makes what is missing for a table. `side` is another session: labels of a type in use are added outside the transaction. */
  async ensure(session: Session, side: Session, schema: TableSchema): Promise<void> {
    for (const column of schema.columns) await this.#make(session, side, column.type);
  }

  /** The type of a column as the target writes it. */
  columnType(column: ColumnSchema): string {
    return isBuiltIn(column.type) ? column.sqlType : this.#name(column.type);
  }

  /** Adds labels that appear as values before any schema names them. @returns true when some were missing */
  async addLabels(session: Session, side: Session, type: PgType, values: Iterable<string>): Promise<void> {
    const name = this.#name(type);
    const known = this.#labels.get(name);
    if (!known) return;
    for (const value of values) {
      if (known.has(value)) continue;
      await (this.#fresh.has(name) ? session : side).run(`ALTER TYPE ${name} ADD VALUE IF NOT EXISTS ${quoteLiteral(value)}`);
      known.add(value);
    }
  }

  #name(type: PgType): string {
    if (type.kind === 'array') return `${this.#name(type.of as PgType)}[]`;
    const foreign = this.#foreign.get(`${type.schema}.${type.name}`);
    if (foreign) return foreign;
    if (BUILT_IN.has(type.schema)) return quoteTable(type.schema, type.name);
    return quoteTable(this.#schemaOf(type.schema), type.name);
  }

  async #make(session: Session, side: Session, type: PgType): Promise<void> {
    if (type.kind === 'array') return this.#make(session, side, type.of as PgType);
    if (BUILT_IN.has(type.schema)) return;
    if (type.kind === 'base') return this.#findForeign(session, type);
    for (const below of [type.of, ...(type.fields ?? []).map((field) => field.type)]) {
      if (below) await this.#make(session, side, below);
    }
    // A multirange comes with its range.
    if (type.kind === 'multirange') return;
    const name = this.#name(type);
    if (!this.#made.has(name)) {
      const schema = this.#schemaOf(type.schema);
      const { there } = await session.row<{ there: boolean }>(
        'SELECT EXISTS (SELECT 1 FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE n.nspname = $1 AND t.typname = $2) AS there',
        [schema, type.name],
      );
      if (!there) {
        await ensureSchema(session, schema);
        await session.run(this.#definition(type, name));
        this.#fresh.add(name);
      }
      this.#made.add(name);
    }
    if (type.kind === 'enum') await this.#completeEnum(session, side, type, name);
  }

  /** Lengths and precisions inside domains and composites are left out: values are within them already. */
  #definition(type: PgType, name: string): string {
    switch (type.kind) {
      case 'enum':
        return `CREATE TYPE ${name} AS ENUM (${(type.labels ?? []).map(quoteLiteral).join(', ')})`;
      case 'domain':
        return `CREATE DOMAIN ${name} AS ${this.#name(type.of as PgType)}`;
      case 'composite':
        return `CREATE TYPE ${name} AS (${(type.fields ?? []).map((f) => `${quoteIdent(f.name)} ${this.#name(f.type)}`).join(', ')})`;
      case 'range':
        return `CREATE TYPE ${name} AS RANGE (subtype = ${this.#name(type.of as PgType)})`;
      case 'base':
      case 'array':
      case 'multirange':
        throw new Error(`type ${type.name} is not made on its own`);
    }
  }

  async #completeEnum(session: Session, side: Session, type: PgType, name: string): Promise<void> {
    let known = this.#labels.get(name);
    if (!known) {
      const rows = await session.rows<{ label: string }>('SELECT enumlabel AS label FROM pg_enum WHERE enumtypid = $1::regtype', [
        name,
      ]);
      known = new Set(rows.map((row) => row.label));
      this.#labels.set(name, known);
    }
    const labels = type.labels ?? [];
    for (const [i, label] of labels.entries()) {
      if (known.has(label)) continue;
      const before = labels[i - 1];
      const next = labels.find((other) => known.has(other));
      const place =
        before !== undefined && known.has(before)
          ? ` AFTER ${quoteLiteral(before)}`
          : next === undefined
            ? ''
            : ` BEFORE ${quoteLiteral(next)}`;
      await (this.#fresh.has(name) ? session : side).run(
        `ALTER TYPE ${name} ADD VALUE IF NOT EXISTS ${quoteLiteral(label)}${place}`,
      );
      known.add(label);
    }
  }

  /** A type of an extension: used where the target has it under any schema, else text keeps its values exactly. */
  async #findForeign(session: Session, type: PgType): Promise<void> {
    const key = `${type.schema}.${type.name}`;
    if (this.#foreign.has(key)) return;
    const [found] = await session.rows<{ schema: string }>(
      `SELECT n.nspname AS schema FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
        WHERE t.typname = $1 AND t.typtype = 'b' AND t.typcategory <> 'A' LIMIT 1`,
      [type.name],
    );
    this.#foreign.set(key, found ? quoteTable(found.schema, type.name) : 'text');
  }
}

function isBuiltIn(type: PgType): boolean {
  return type.kind === 'array' ? isBuiltIn(type.of as PgType) : BUILT_IN.has(type.schema);
}
