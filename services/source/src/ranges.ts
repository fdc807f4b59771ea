import type { CatalogTable } from '@tributary/postgres';
import type { Rows } from './database.ts';
import type { SnapshotState } from './state.ts';

/** Blocks of the first range of a table; the next ones follow what it gave. */
const FIRST_BLOCKS = 8;
const BLOCKS_MAX = 16_384;

export interface Range {
  readonly leaf: number;
  readonly rows: Rows;
  readonly blocks: number;
  /** First block behind the range. */
  readonly end: number;
}

/** Hands out ranges of blocks, leaf by leaf, sized so that a chunk comes near the target. */
export class Ranges {
  readonly #leaves: CatalogTable['leaves'];
  #leaf: number;
  #block: number;
  #size = FIRST_BLOCKS;
  readonly #chunkBytes: number;

  /** @param chunkBytes size of a chunk that is aimed at */
  constructor(table: CatalogTable, snapshot: SnapshotState, chunkBytes: number) {
    this.#chunkBytes = chunkBytes;
    this.#leaves = table.leaves;
    const at = table.leaves.findIndex((leaf) => leaf.oid === snapshot.leaf);
    this.#leaf = Math.max(0, at);
    this.#block = at === -1 ? 0 : snapshot.block;
  }

  next(): Range | null {
    const leaf = this.#leaves[this.#leaf];
    if (!leaf) return null;
    const start = this.#block;
    const last = start + this.#size >= leaf.blocks;
    // The last range has no end: rows that moved behind the last block as it was are in it.
    const end = last ? Math.max(leaf.blocks, start + 1) : start + this.#size;
    this.#block = last ? 0 : end;
    if (last) this.#leaf++;
    return {
      leaf: leaf.oid,
      rows: { kind: 'range', leaf: leaf.name, start, end: last ? null : end },
      blocks: end - start,
      end,
    };
  }

  /** A chunk of so many blocks gave so many bytes. */
  learn(blocks: number, bytes: number): void {
    const ideal = Math.floor((blocks * this.#chunkBytes) / Math.max(bytes, 1));
    this.#size = Math.max(1, Math.min(BLOCKS_MAX, ideal, this.#size * 4));
  }
}
