/**
 * The cluster's small shared memory: leases, workers, desired state. Every write is checked against the revision it
 * was made from, so two who decide at the same moment cannot both win. Nothing of the data depends on it: when it is
 * lost, workers take their leases anew.
 *
 * Values are JSON. Revisions rise with every write to any key, until the bucket itself is lost.
 */
export interface Kv {
  /** @returns null when the key is absent or was deleted */
  get(key: string): Promise<KvEntry | null>;
  /** Writes a key that is absent. @returns its revision, or null when somebody was there before */
  create(key: string, value: unknown): Promise<number | null>;
  /** Writes a key that still stands at `revision`. @returns its new revision, or null when it has moved on */
  update(key: string, value: unknown, revision: number): Promise<number | null>;
  /** Removes a key that still stands at `revision`. @returns false when it has moved on */
  delete(key: string, revision: number): Promise<boolean>;
  /**
   * Every key (or only `key`) as it stands, then `current`, then every change in order. Ends without an error when
   * changes may have been missed (a broken connection): the caller opens it again and begins from what it then gets.
   * @throws Fault `broker_unreachable` when it cannot be opened
   */
  watch(signal: AbortSignal, key?: string): AsyncIterable<KvEvent>;
}

export interface KvEntry {
  readonly key: string;
  readonly value: unknown;
  readonly revision: number;
}

export type KvEvent =
  | ({ readonly kind: 'put' } & KvEntry)
  | { readonly kind: 'delete'; readonly key: string; readonly revision: number }
  /** Everything that stood when the watch was opened has been told. */
  | { readonly kind: 'current' };
