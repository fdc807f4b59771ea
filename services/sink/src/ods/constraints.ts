import { Fault } from '@tributary/core';
import { quoteIdent, type Session, sqlState } from '@tributary/postgres';

/** SQLSTATE of a foreign key that finds no row. */
const FOREIGN_KEY_VIOLATION = '23503';
const INSUFFICIENT_PRIVILEGE = '42501';

/** How long rows that nothing refers to rightly may be waited for, while no snapshot runs that could bring them, ms. */
const WAIT_MS = 10_000;

/**
 * Foreign keys of the target's owner, as far as they can be checked at the end of a transaction.
 *
 * Snapshots read one table after another, and the stream goes on beside them: for a while rows are there of which others are
 * still to come. A transaction is committed only when all keys find their rows; until then it stays open and takes in what
 * follows. What is read of the target meanwhile is what it was before.
 */
export class Constraints {
  readonly #session: Session;
  readonly #snapshots = new Set<string>();
  #deferred = false;
  /** Since when they have failed while no snapshot ran, ms monotonic. */
  #failingSince: number | null = null;

  constructor(session: Session) {
    this.#session = session;
  }

  /** To be called before anything is written to a table that has such keys. */
  async defer(): Promise<void> {
    if (this.#deferred) return;
    await this.#session.run('SET CONSTRAINTS ALL DEFERRED');
    this.#deferred = true;
  }

  snapshot(table: string, step: 'gap' | 'begin' | 'chunk' | 'end'): void {
    if (step === 'end') this.#snapshots.delete(table);
    else if (step !== 'gap') this.#snapshots.add(table);
  }

  /**
   * May the transaction be committed? Costs what the commit would cost otherwise.
   * @param waits more may come that lets them hold
   * @throws Fault of the database, when they do not and `waits` is false, or have not for long although no snapshot runs
   */
  async hold({ waits }: { readonly waits: boolean }): Promise<boolean> {
    if (!this.#deferred) return true;
    await this.#session.run('SAVEPOINT keys');
    try {
      await this.#session.run('SET CONSTRAINTS ALL IMMEDIATE');
      return true;
    } catch (error) {
      const now = performance.now();
      if (this.#snapshots.size > 0) this.#failingSince = null;
      else this.#failingSince ??= now;
      const late = this.#failingSince !== null && now - this.#failingSince > WAIT_MS;
      if (sqlState(error) !== FOREIGN_KEY_VIOLATION || late || !waits) throw error;
      await this.#session.run('ROLLBACK TO SAVEPOINT keys; RELEASE SAVEPOINT keys');
      return false;
    }
  }

  /** The transaction is over. */
  ended(): void {
    this.#deferred = false;
    this.#failingSince = null;
  }
}

/** Adds to a foreign key's refusal what can be done about it. */
export function withAdvice(error: unknown, sink: string): unknown {
  if (!(error instanceof Fault) || sqlState(error) !== FOREIGN_KEY_VIOLATION) return error;
  const constraint = String(error.facts['constraint'] ?? 'the constraint');
  return new Fault(
    error.kind,
    `${error.message}. Let ${constraint} be checked when a transaction is complete (ALTER TABLE … ALTER CONSTRAINT ${constraint} DEFERRABLE), drop it, or give sink ${sink} "foreignKeys: replica"`,
    error.facts,
    { cause: error.cause },
  );
}

/** Foreign keys are not checked, and triggers rest, in this session. @throws Fault `config_invalid` where the role may not */
export async function asReplica(session: Session, sink: string): Promise<void> {
  try {
    await session.run('SET session_replication_role = replica');
  } catch (error) {
    if (sqlState(error) !== INSUFFICIENT_PRIVILEGE) throw error;
    const { role } = await session.row<{ role: string }>('SELECT current_user::text AS role');
    throw new Fault(
      'config_invalid',
      `"foreignKeys: replica" of sink ${sink}: role ${role} may not set session_replication_role. Run as superuser (PostgreSQL 15 and newer): GRANT SET ON PARAMETER session_replication_role TO ${quoteIdent(role)}; or leave it out.`,
      { role },
      { cause: error },
    );
  }
}
