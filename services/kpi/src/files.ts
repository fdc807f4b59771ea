import { randomUUID } from 'node:crypto';
import { copyFile, mkdir, open, readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Grain, KpiFiles } from '@tributary/config';
import { type Clock, describeError, Fault } from '@tributary/core';
import type { Snapshot } from './asked.ts';

/** What did not change is written again after so long: then it tells how far it is complete, and takes the place of what somebody else left there. */
const UNCHANGED_MS = 60_000;
/** Ends the name of a file that is not whole. Readers take `*.parquet`. */
const PART = '.part';

export interface FilesOptions {
  readonly kpi: string;
  readonly files: KpiFiles;
  /** Of this KPI alone; the same for every worker that may run it. */
  readonly folder: string;
  readonly clock: Clock;
  readonly warn: (facts: object, message: string) => void;
  /** Where its sources stand: nothing is looked at while that is as it was. */
  readonly position: () => string;
  /** A path on this worker's own disk. */
  readonly scratch: () => string;
  /** @throws Fault `not_complete` while the KPI cannot be answered */
  readonly snapshot: (grain: Grain | null, to: { path: string; due: (digest: string) => boolean }) => Promise<Snapshot>;
}

/** One published file, as `kpi show` tells of it. */
interface ShownFile {
  readonly path: string;
  /** Null: not since this worker runs the KPI. */
  readonly writtenAt: string | null;
  readonly position: string | null;
  /** Why it could not be written when it was last tried. */
  readonly reason: string | null;
}

interface Known extends ShownFile {
  readonly grain: Grain | null;
  readonly digest: string | null;
  /** Monotonic ms. */
  readonly at: number;
}

/**
 * Keeps the values of one KPI in Parquet files, for tools that read files: looks every `everyMs`, if any source has moved, and writes where values
 * changed. A reader sees a whole file, the old one or the new: it is made on the worker's own disk, copied beside its place under another name, flushed and renamed.
 *
 * A file that cannot be written stays as it was, with what it says of its age; that is told, tried again, and stops nothing else. Two workers
 * at once, for a moment, write the same place; whose file is older is overwritten by the one that goes on, within {@link UNCHANGED_MS}.
 */
export class PublishedFiles {
  readonly #options: FilesOptions;
  readonly #known: Known[];

  constructor(options: FilesOptions) {
    this.#options = options;
    const { files, folder } = options;
    const none = { writtenAt: null, position: null, reason: null, digest: null, at: 0 };
    const grains = files.grains.length === 0 ? [null] : files.grains;
    this.#known = grains.map((grain) => ({ ...none, grain, path: join(folder, `${grain ?? 'values'}.parquet`) }));
  }

  shown(): ShownFile[] {
    return this.#known.map(({ path, writtenAt, position, reason }) => ({ path, writtenAt, position, reason }));
  }

  async run(signal: AbortSignal): Promise<void> {
    const { files, clock, position } = this.#options;
    let looked: string | null = null;
    let swept = false;
    while (!signal.aborted) {
      const at = position();
      if (at !== looked) {
        swept ||= await this.#sweep();
        let whole = swept;
        if (swept) for (const i of this.#known.keys()) whole = (await this.#write(i)) && whole;
        if (whole) looked = at;
        // What is wrong may be that the folder is gone.
        else swept = false;
      }
      await clock.sleep(files.everyMs, signal).catch(() => {});
    }
  }

  /** Removes what workers that died left half written. @returns was it done? */
  async #sweep(): Promise<boolean> {
    const { folder } = this.#options;
    try {
      await mkdir(folder, { recursive: true });
      for (const name of await readdir(folder)) if (name.endsWith(PART)) await rm(join(folder, name), { force: true });
      return true;
    } catch (error) {
      for (const i of this.#known.keys()) this.#failed(i, error);
      return false;
    }
  }

  /** @returns is the file as the KPI is? */
  async #write(i: number): Promise<boolean> {
    const { clock, scratch, snapshot } = this.#options;
    const { grain, path, digest: before, at } = this.#known[i] as Known;
    const old = clock.monotonic() - at >= UNCHANGED_MS;
    const made = scratch();
    try {
      const { written, digest, freshness } = await snapshot(grain, { path: made, due: (now) => old || now !== before });
      if (!written) return true;
      await put(made, path);
      this.#known[i] = {
        grain,
        path,
        digest,
        at: clock.monotonic(),
        writtenAt: new Date(clock.now()).toISOString(),
        position: freshness.position,
        reason: null,
      };
      return true;
    } catch (error) {
      if (error instanceof Fault && error.kind === 'not_complete') return false;
      this.#failed(i, error);
      return false;
    } finally {
      await rm(made, { force: true });
    }
  }

  /** Tells it once, until it is mended or another reason comes. @throws what is no fault of the surroundings */
  #failed(i: number, error: unknown): void {
    const { kpi, warn } = this.#options;
    const code = (error as { code?: string }).code;
    if (!(error instanceof Fault) && code === undefined) throw error;
    const known = this.#known[i] as Known;
    const { path } = known;
    // Without the paths that the system names: those change from try to try.
    const reason =
      error instanceof Fault
        ? `${describeError(error)}. ${error.advice}`
        : `${describeError(error).split(',')[0]}. ${adviceOn(code, this.#options.folder)}`;
    if (known.reason !== reason)
      warn({ kpi, path, reason }, 'a file of a KPI cannot be written: it stays as it was, and is tried again');
    // Whatever is there may no longer be what was written.
    this.#known[i] = { ...known, digest: null, reason };
  }
}

/** A reader finds the file that was there, or all of the new one, whoever dies when. */
async function put(made: string, path: string): Promise<void> {
  const part = `${path}.${randomUUID()}${PART}`;
  try {
    await copyFile(made, part);
    const handle = await open(part, 'r+');
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(part, path);
  } catch (error) {
    await rm(part, { force: true }).catch(() => {});
    throw error;
  }
}

function adviceOn(code: string | undefined, folder: string): string {
  if (code === 'ENOSPC' || code === 'EDQUOT' || code === 'EFBIG') return `Free disk space where ${folder} is.`;
  if (code === 'EACCES' || code === 'EPERM' || code === 'EROFS') return `Let workers write to ${folder}.`;
  return `See that ${folder} is there, and is a folder to which workers may write.`;
}
