import { quoteIdent, type Session } from '@tributary/postgres';

/** A role that may not make schemas can use one that its owner made. */
export async function ensureSchema(session: Session, schema: string): Promise<void> {
  const { there } = await session.row<{ there: boolean }>('SELECT to_regnamespace($1) IS NOT NULL AS there', [
    quoteIdent(schema),
  ]);
  if (!there) await session.run(`CREATE SCHEMA IF NOT EXISTS ${quoteIdent(schema)}`);
}
