import { link, mkdir, readdir, readFile, rm, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { randomUUID } from 'node:crypto';
import { Fault, type TableSchema } from '@tributary/core';

/** What one commit of one source's lake says: everything a reader needs, in one file that appears all at once. */
export interface Manifest {
  readonly format: 2;
  readonly source: string;
  /** Rises by one with every commit, for as long as the lake's folder lives. */
  readonly commit: number;
  /** Names this commit among all there ever were. */
  readonly id: string;
  /** Id of the commit before; null for the first. */
  readonly follows: string | null;
  /** History is complete up to here, and holds nothing beyond (tables that are held: nothing beyond that). */
  readonly position: PlaceText;
  /** Microseconds since 1970. */
  readonly watermark: number;
  /** Where the `exact` files stand together; null = not compacted yet. */
  readonly compacted: { readonly position: PlaceText; readonly watermark: number } | null;
  readonly tables: Readonly<Record<string, ManifestTable>>;
}

/** A position as JSON. */
export interface PlaceText {
  readonly seq: number;
  readonly lsn: string;
  readonly ordinal: number;
  /** Slot epoch; absent in what was written before epochs were noted. */
  readonly epoch?: string | null;
}

export interface ManifestTable {
  readonly schema: TableSchema;
  /** Parquet files of history in order, relative to the lake. */
  readonly changes: readonly ManifestFile[];
  /** The compacted state as people read it, as of `position`; null until it was compacted. */
  readonly current: (ManifestFile & { readonly position: { readonly seq: number; readonly lsn: string } }) | null;
  /** The compacted changelog: the same rows as PostgreSQL's own text, as of the manifest's `compacted`; null until then. */
  readonly exact: ExactFile | null;
}

export interface ExactFile extends ManifestFile {
  /** Shape of the rows in it. */
  readonly schema: TableSchema;
  readonly version: string;
  /** Columns with `<column>__text` beside them in `current`. */
  readonly lossy: readonly string[];
  /** Keys named since the snapshot that runs at this moment began; null = none runs. */
  readonly seen: ManifestFile | null;
  /** A replay keeps the table as it is: rows and history stand here already, `LSN+ORDINAL`; null = they stand with the others. */
  readonly held: string | null;
}

export interface ManifestFile {
  readonly path: string;
  readonly rows: number;
}

const NAME = /^manifest-(\d{9})\.json$/;
/** Files are named after the commit they were written for. */
const FILE = /-(\d{9})-[0-9a-f]{8}\.parquet$/;
/** Manifests that stay readable behind the newest. */
const KEEP = 10;

/**
 * The commits of one source's lake, as numbered files. The seam behind which a table format takes over later.
 *
 * A commit writes its file under a private name and links it to its number: the link fails when somebody else has that
 * number, so commits are atomic and never overwrite one another. Position and tables are one file (I6).
 * Each commit names the one it follows, and numbers are never given twice: a worker that lost its place to another one
 * is refused at its next commit, however long it slept.
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
    for (;;) {
      const newest = (await this.#numbers()).at(-1);
      if (newest === undefined) return null;
      const manifest = await this.#read(newest);
      // Gone between the two: so many commits were made meanwhile that it was swept.
      if (manifest) return manifest;
    }
  }

  /**
   * Makes `manifest` the newest commit, which must follow the one that is the newest now.
   * @throws Fault `fenced` when another worker made a commit that this one does not know
   */
  async commit(manifest: Manifest): Promise<void> {
    const refused = () =>
      new Fault('fenced', `another worker writes the lake of ${manifest.source}`, { commit: manifest.commit });
    if (((await this.latest())?.id ?? null) !== manifest.follows) throw refused();
    const scratch = join(this.#folder, `.commit-${randomUUID()}`);
    await mkdir(this.#folder, { recursive: true });
    try {
      await writeFile(scratch, JSON.stringify(manifest), { flush: true });
      await link(scratch, this.#path(manifest.commit));
    } catch (error) {
      const code = (error as { code?: string }).code;
      if (code === 'EEXIST') throw refused();
      if (code === 'ENOSPC' || code === 'EFBIG') throw new Fault('disk_full', `the lake's disk is full`, {}, { cause: error });
      throw error;
    } finally {
      await unlink(scratch).catch(() => {});
    }
    // A number that had been swept was free again: whoever slept that long has not become the newest.
    if ((await this.latest())?.id !== manifest.id) throw refused();
  }

  /**
   * Removes old manifests, and files that no kept manifest names. Files written for a commit after the newest are left
   * alone: another worker may be about to name them.
   */
  async sweep(): Promise<void> {
    const numbers = await this.#numbers();
    const newest = numbers.at(-1) ?? 0;
    const named = new Set<string>();
    for (const number of numbers.slice(-KEEP)) {
      for (const path of filesOf(await this.#read(number))) named.add(path);
    }
    for (const number of numbers.slice(0, -KEEP)) await rm(this.#path(number), { force: true });
    for (const entry of await readdir(this.#folder, { recursive: true, withFileTypes: true })) {
      if (!entry.isFile() || Number(FILE.exec(entry.name)?.[1] ?? Infinity) > newest) continue;
      const path = join(entry.parentPath, entry.name);
      if (!named.has(path.slice(this.#folder.length + 1))) await rm(path, { force: true });
    }
  }

  async #read(commit: number): Promise<Manifest | null> {
    try {
      return upgraded(JSON.parse(await readFile(this.#path(commit), 'utf8')) as Manifest | ManifestOne);
    } catch (error) {
      if ((error as { code?: string }).code === 'ENOENT') return null;
      throw error;
    }
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

function filesOf(manifest: Manifest | null): string[] {
  return Object.values(manifest?.tables ?? {}).flatMap(({ changes, current, exact }) =>
    [...changes, current, exact, exact?.seen].flatMap((file) => (file ? [file.path] : [])),
  );
}

/** Format 1: no exact text, no chain. */
type ManifestOne = Omit<Manifest, 'format' | 'id' | 'follows' | 'compacted' | 'tables'> & {
  readonly format: 1;
  readonly tables: Readonly<Record<string, Omit<ManifestTable, 'exact'>>>;
};

function upgraded(manifest: Manifest | ManifestOne): Manifest {
  if (manifest.format === 2) return manifest;
  const tables = Object.fromEntries(Object.entries(manifest.tables).map(([name, table]) => [name, { ...table, exact: null }]));
  return { ...manifest, format: 2, id: firstFormatId(manifest.commit), follows: null, compacted: null, tables };
}

/** What a commit of format 1 is called, in manifests and in states that were written then. */
export function firstFormatId(commit: number): string {
  return `commit ${commit}`;
}
