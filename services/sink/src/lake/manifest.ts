import { link, mkdir, readdir, readFile, rm, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { randomUUID } from 'node:crypto';
import { Fault, type TableSchema } from '@tributary/core';

/** What one commit of one source's lake says: everything a reader needs, in one file that appears all at once. */
export interface Manifest {
  readonly format: 1;
  readonly source: string;
  /** Rises by one with every commit. */
  readonly commit: number;
  readonly position: { readonly seq: number; readonly lsn: string; readonly ordinal: number };
  /** Microseconds since 1970. */
  readonly watermark: number;
  readonly tables: Readonly<Record<string, ManifestTable>>;
}

export interface ManifestTable {
  readonly schema: TableSchema;
  /** Parquet files of history in order, relative to the lake. */
  readonly changes: readonly ManifestFile[];
  /** The compacted state as of `position`; null until it was compacted. */
  readonly current: (ManifestFile & { readonly position: { readonly seq: number; readonly lsn: string } }) | null;
}

export interface ManifestFile {
  readonly path: string;
  readonly rows: number;
}

const NAME = /^manifest-(\d{9})\.json$/;
/** Manifests that stay readable behind the newest. */
const KEEP = 10;

/**
 * The commits of one source's lake, as numbered files. The seam behind which a table format takes over later.
 *
 * A commit writes its file under a private name and links it to its number: the link fails when somebody else has that
 * number, so commits are atomic and never overwrite one another. Position and tables are one file (I6).
 */
export class Manifests {
  readonly #folder: string;

  constructor(folder: string) {
    this.#folder = folder;
  }

  get folder(): string {
    return this.#folder;
  }

  async latest(): Promise<Manifest | null> {
    const newest = (await this.#numbers()).at(-1);
    return newest === undefined ? null : (JSON.parse(await readFile(this.#path(newest), 'utf8')) as Manifest);
  }

  /** @throws Fault `fenced` when another worker made this commit */
  async commit(manifest: Manifest): Promise<void> {
    const scratch = join(this.#folder, `.commit-${randomUUID()}`);
    await mkdir(this.#folder, { recursive: true });
    try {
      await writeFile(scratch, JSON.stringify(manifest), { flush: true });
      await link(scratch, this.#path(manifest.commit));
    } catch (error) {
      const code = (error as { code?: string }).code;
      if (code === 'EEXIST')
        throw new Fault('fenced', `another worker writes the lake of ${manifest.source}`, { commit: manifest.commit });
      if (code === 'ENOSPC') throw new Fault('disk_full', `the lake's disk is full`, {}, { cause: error });
      throw error;
    } finally {
      await unlink(scratch).catch(() => {});
    }
  }

  /** Removes old manifests and files that neither the kept ones nor the newest name. */
  async sweep(): Promise<void> {
    const numbers = await this.#numbers();
    const dropped = numbers.slice(0, -KEEP);
    const named = new Set<string>();
    for (const number of numbers.slice(-KEEP)) {
      const manifest = JSON.parse(await readFile(this.#path(number), 'utf8')) as Manifest;
      for (const table of Object.values(manifest.tables)) {
        for (const file of [...table.changes, ...(table.current ? [table.current] : [])]) named.add(file.path);
      }
    }
    for (const number of dropped) await rm(this.#path(number), { force: true });
    for (const entry of await readdir(this.#folder, { recursive: true, withFileTypes: true })) {
      if (!entry.isFile() || !entry.name.endsWith('.parquet')) continue;
      const path = join(entry.parentPath, entry.name);
      if (!named.has(path.slice(this.#folder.length + 1))) await rm(path, { force: true });
    }
  }

  /** Forgets every commit: the next one begins a new history. */
  async reset(): Promise<void> {
    for (const number of await this.#numbers()) await rm(this.#path(number), { force: true });
  }

  async #numbers(): Promise<number[]> {
    const names = await readdir(this.#folder).catch((error: { code?: string }) => {
      if (error.code === 'ENOENT') return [];
      throw error as unknown as Error;
    });
    return names
      .flatMap((name) => NAME.exec(name)?.[1] ?? [])
      .map(Number)
      .sort((a, b) => a - b);
  }

  #path(commit: number): string {
    return join(this.#folder, `manifest-${String(commit).padStart(9, '0')}.json`);
  }
}
