/** What the next leader must know; travels in the changelog itself (`header.state`). JSON. */
export interface SourceState {
  readonly epoch: string;
  /** Of the database cluster: another one means another history. */
  readonly systemId: string;
  /** An earlier changelog of this source was lost: projections may hold its rows, so no table is emptied before it is read. */
  readonly regained?: boolean;
  /** Rises with every snapshot. */
  generation: number;
  /** By `schema.table`. */
  readonly tables: Record<string, TableState>;
}

export interface TableState {
  oid: number;
  /** `keyed`: read in ranges and reconciled by key. `whole`: read in one piece, replacing what was there. */
  mode: 'keyed' | 'whole';
  /** Fingerprint of columns, key and identity. */
  shape: string;
  /** Fingerprint of the leaf partitions and their files; '' for a table without partitions. */
  leaves: string;
  /** Where its snapshot stands; null = none runs and none is due. */
  snapshot: SnapshotState | null;
  /** A reading in one piece has begun in the changelog and not ended: readers wait for its end. */
  open?: boolean;
  /** Whole tables: changes that the stream did not bring are noticed by these two. */
  churn: string;
  content: string;
  /** Whole tables: what the last snapshot saw of transactions that the stream brought only afterwards. */
  skip: { readonly snapshot: string; readonly until: string } | null;
}

export interface SnapshotState {
  readonly generation: number;
  /** False until its begin mark is in the changelog. */
  begun: boolean;
  /** Sequence-free place to go on: the leaf and its first unread block. */
  leaf: number;
  block: number;
  /** Keys to be read again before the end. */
  reread: string[];
}

export function emptyState(epoch: string, systemId: string): SourceState {
  return { epoch, systemId, generation: 0, tables: {} };
}
