import { Fault } from '@tributary/core';
import { type CatalogTable, quoteIdent, quoteTable, type Session, sqlState } from '@tributary/postgres';
import type { Publication } from './database.ts';
import { publicationNames } from './slot.ts';

/** Makes both publications when they are missing (I9: never drops any). Before the slot: decoding must find them. */
export async function ensurePublications(session: Session, source: string, version: number): Promise<void> {
  const [all, append] = publicationNames(source);
  const existing = await session.rows<{ name: string }>('SELECT pubname AS name FROM pg_publication WHERE pubname = ANY ($1)', [
    [all, append],
  ]);
  const generated = version >= 180_000 ? ', publish_generated_columns = stored' : '';
  for (const [name, publish] of [
    [all, 'insert, update, delete, truncate'],
    [append, 'insert, truncate'],
  ] as const) {
    if (existing.some((publication) => publication.name === name)) continue;
    const sql = `CREATE PUBLICATION ${quoteIdent(name)} WITH (publish = '${publish}', publish_via_partition_root = true${generated})`;
    try {
      await session.run(sql);
    } catch (error) {
      if (sqlState(error) === '42710') continue;
      if (sqlState(error) !== '42501') throw error;
      throw new Fault(
        'source_misconfigured',
        `this role may not create the publication ${name}. Run as the database's owner: GRANT CREATE ON DATABASE … TO this role; or: ${sql};`,
        {},
        { cause: error },
      );
    }
  }
}

/** Oids of the tables in each publication of a source. */
export async function publishedTables(session: Session, source: string): Promise<Record<Publication, Set<number>>> {
  const [all, append] = publicationNames(source);
  const published = await session.rows<{ publication: string; oid: number }>(
    `SELECT p.pubname AS publication, r.prrelid::int8::float8 AS oid FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
      WHERE p.pubname IN ($1, $2)`,
    [all, append],
  );
  const members = (name: string) => new Set(published.filter((row) => row.publication === name).map((row) => row.oid));
  return { all: members(all), append: members(append) };
}

/** All at once, so that transactions over several tables come whole from the first moment; one by one to name the culprit. */
export async function addTables(session: Session, publication: string, tables: readonly CatalogTable[]): Promise<void> {
  const sql = (some: readonly CatalogTable[]) =>
    `ALTER PUBLICATION ${quoteIdent(publication)} ADD TABLE ${some.map((table) => `ONLY ${quoteTable(table.schema, table.table)}`).join(', ')}`;
  try {
    await session.run(`SET lock_timeout = '5s'; ${sql(tables)}; SET lock_timeout = 0`);
  } catch (error) {
    if (!/^(42P01|42710|42501)$/.test(sqlState(error))) throw error;
    for (const table of tables) await alter(session, sql([table]), table);
  }
}

export function dropTable(session: Session, publication: string, table: CatalogTable): Promise<void> {
  return alter(
    session,
    `ALTER PUBLICATION ${quoteIdent(publication)} DROP TABLE ${quoteTable(table.schema, table.table)}`,
    table,
  );
}

async function alter(session: Session, sql: string, { schema, table }: CatalogTable): Promise<void> {
  try {
    await session.run(`SET lock_timeout = '5s'; ${sql}; SET lock_timeout = 0`);
  } catch (error) {
    const state = sqlState(error);
    // Somebody dropped it, or did the same, meanwhile: the next look sees.
    if (state === '42P01' || state === '42710' || state === '42704') return;
    if (state === '42501') {
      throw new Fault(
        'source_misconfigured',
        `this role may not publish ${schema}.${table}: only its owner may. Run as the owner: ${sql}; or leave the table out with "!${schema}.${table}".`,
        { table: `${schema}.${table}` },
        { cause: error },
      );
    }
    throw error;
  }
}
