import { askOne, type Bus, describeError, Fault, parseLsn, type Position, type TableSchema } from '@tributary/core';

/** What a lake tells of its compacted changelog: files of exact text that stand together at one position. */
interface Compacted {
  readonly position: {
    readonly seq: number;
    readonly lsn: string;
    readonly ordinal: number;
    readonly epoch?: string | null;
  } | null;
  readonly watermark: number;
  readonly tables: readonly CompactedTable[];
}

export interface CompactedTable {
  readonly name: string;
  readonly schema: TableSchema;
  readonly version: string;
  /** Parquet file, readable where the lake's folder is. */
  readonly path: string;
}

export interface LoadedSource {
  readonly position: Position;
  readonly watermark: number;
  readonly tables: readonly CompactedTable[];
}

const LAKE_MS = 5_000;

/**
 * Asks the lakes that hold a source for its compacted changelog: loading that is several times faster than reading the whole history,
 * and goes on where history was let go of. Null when none of them has all tables wanted: then the changelog is read.
 */
export async function loadFromLake({
  source,
  bus,
  lakes,
  wanted,
  warn,
}: {
  readonly source: string;
  readonly bus: Bus;
  readonly lakes: readonly string[];
  readonly wanted: ReadonlySet<string>;
  readonly warn: (facts: object, message: string) => void;
}): Promise<LoadedSource | null> {
  for (const lake of lakes) {
    try {
      const told = await askOne<Compacted>(
        bus,
        `tributary.projection.${lake}.${source}.compacted`,
        { tables: [...wanted] },
        { idleMs: LAKE_MS },
      );
      if (!told?.position || told.tables.length < wanted.size) continue;
      const { seq, lsn, ordinal, epoch } = told.position;
      const position = { seq, lsn: parseLsn(lsn), ordinal, ...(typeof epoch === 'string' ? { epoch } : {}) };
      return { position, watermark: told.watermark, tables: told.tables };
    } catch (error) {
      if (!(error instanceof Fault)) throw error;
      if (error.kind !== 'not_found')
        warn({ source, lake, error: describeError(error) }, 'the lake cannot be loaded from; the changelog is read');
    }
  }
  return null;
}
