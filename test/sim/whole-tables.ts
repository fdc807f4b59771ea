import type { Cell, Lsn } from '@tributary/core';
import type { Visibility } from '@tributary/postgres';
import { addDigest, type Change, type ModelTable, type PostgresModel } from './pg-model.ts';

interface Fold {
  readonly seen: Visibility;
  digest: number;
  /** Index into the WAL of the next transaction that the snapshot may not have seen. */
  next: number;
}

/**
 * What a table without key must hold in a projection: every change by a transaction that its snapshot saw, also where the
 * stream has not brought it yet, and of the others what is published and was streamed. Transactions that are in each other's way
 * have their commit records in the order in which they became visible, so the order of the WAL serves for both.
 */
export class WholeTables {
  readonly #model: PostgresModel;
  readonly #folds = new Map<string, Fold>();

  constructor(model: PostgresModel) {
    this.#model = model;
  }

  /** @param seen what the table's last snapshot saw; the sum of the digests of its rows at `lsn` is returned */
  digestAt(table: ModelTable, seen: Visibility, lsn: Lsn): number {
    let fold = this.#folds.get(table.name);
    if (fold?.seen !== seen) {
      fold = { seen, digest: 0, next: 0 };
      this.#folds.set(table.name, fold);
      for (const change of this.#changes(table, seen, lsn)) apply(fold, change);
      while (this.#before(fold.next, lsn)) fold.next++;
    }
    for (; this.#before(fold.next, lsn); fold.next++) {
      const transaction = this.#model.wal[fold.next];
      if (!transaction || seen.sees(transaction.xid)) continue;
      for (const change of transaction.changes) if (change.table === table && change.published) apply(fold, change);
    }
    return fold.digest;
  }

  #before(index: number, lsn: Lsn): boolean {
    const transaction = this.#model.wal[index];
    return transaction !== undefined && transaction.commitLsn <= lsn;
  }

  *#changes(table: ModelTable, seen: Visibility, lsn: Lsn): Iterable<Change> {
    for (const { xid, commitLsn, changes } of this.#model.wal) {
      const visible = seen.sees(xid);
      if (!visible && commitLsn > lsn) continue;
      for (const change of changes) if (change.table === table && (visible || change.published)) yield change;
    }
  }

  /** The first content that is there more or less often than it must be, for whoever looks for the reason. */
  difference(table: ModelTable, seen: Visibility, lsn: Lsn, held: Iterable<readonly Cell[]>): string {
    const due = new Map<string, number>();
    const count = (row: readonly Cell[] | null, by: number) => {
      if (!row) return;
      const text = JSON.stringify(row.map((cell) => cell?.slice(0, 20) ?? null));
      due.set(text, (due.get(text) ?? 0) + by);
    };
    for (const { op, old, row } of this.#changes(table, seen, lsn)) {
      if (op === 'truncate') due.clear();
      count(old, -1);
      count(row, 1);
    }
    for (const row of held) count(row, -1);
    const wrong = [...due].filter(([, missing]) => missing !== 0);
    return `${wrong.map(([text, missing]) => `${text} ${missing > 0 ? `is missing ${missing} times` : `is there ${-missing} times too often`}`).join(', ')}; read by ${seen.text}`;
  }
}

function apply(fold: Fold, { op, delta }: Change): void {
  fold.digest = op === 'truncate' ? 0 : addDigest(fold.digest, delta);
}
