/**
 * What one PostgreSQL snapshot sees: everything below `xmin`, and below `xmax` all but the running ones.
 * Taken from `pg_current_snapshot()`; xids there are 64-bit, in the replication stream 32-bit.
 */
export class Visibility {
  readonly text: string;
  readonly xmin: bigint;
  readonly xmax: bigint;
  readonly #running: ReadonlySet<bigint>;

  /** @param text `xmin:xmax:xid,xid,…` */
  constructor(text: string) {
    this.text = text;
    const [xmin = '', xmax = '', running = ''] = text.split(':');
    this.xmin = BigInt(xmin);
    this.xmax = BigInt(xmax);
    this.#running = new Set(running.split(',').filter(Boolean).map(BigInt));
  }

  sees(xid: bigint): boolean {
    return xid < this.xmin || (xid < this.xmax && !this.#running.has(xid));
  }

  /** The 64-bit xid that a 32-bit one from the stream stands for: the one nearest to this snapshot. */
  widen(xid: number): bigint {
    const epoch = this.xmax & ~0xffffffffn;
    const near = epoch | BigInt(xid);
    if (near > this.xmax + 0x80000000n) return near - 0x100000000n;
    if (near < this.xmax - 0x80000000n) return near + 0x100000000n;
    return near;
  }
}
