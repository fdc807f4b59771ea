import { Fault } from '@tributary/core';
import { type PreviewOptions, previewTransform, type TablePreview } from './preview.ts';

/** As a projection answers, of one table of the result. */
interface VerifiedTable {
  readonly source: string;
  readonly table: string;
  readonly projection: 'transform';
  readonly rows: number;
  readonly equal: boolean;
  readonly differences: readonly { readonly key: string; readonly problem: 'missing' | 'extra' | 'different' }[];
}

/** Rows that differ and are named, at most. */
const SHOWN_MAX = 20;

/**
 * Compares the rows that the transform's changelog holds with what its steps make of the rows of its inputs, made anew from their whole
 * changelogs up to the same place. Reads and computes everything once more.
 * @throws Fault `history_trimmed` where an input no longer reaches back to its beginning; otherwise as a preview
 */
export async function* verifyTransform(
  { config, inputs, changelogs, bus, signal }: Omit<PreviewOptions, 'broker' | 'samples'> & PreviewOptions['broker'],
  { table: wanted }: { readonly table?: string },
): AsyncGenerator<VerifiedTable> {
  const preview = await previewTransform({ config, inputs, broker: { changelogs, bus }, samples: SHOWN_MAX, signal });
  const [trimmed] = preview.incomplete;
  if (trimmed !== undefined)
    throw new Fault(
      'history_trimmed',
      `transform ${config.name} cannot be made anew: ${trimmed} does not reach back to its beginning`,
    );
  for (const one of preview.tables) {
    if (wanted !== undefined && one.table !== wanted) continue;
    const { table, rows, added, removed, changed } = one;
    const differences = [...columnDifferences(one), ...rowDifferences(one)].slice(0, SHOWN_MAX);
    const equal = added + removed + changed + differences.length === 0;
    yield { source: config.name, table, projection: 'transform', rows, equal, differences };
  }
}

function columnDifferences({ columns, rowsBefore, rows }: TablePreview): VerifiedTable['differences'] {
  if (rowsBefore === null || (rows === 0 && rowsBefore === 0)) return [];
  return [
    ...columns.added.map((column) => ({ key: `column ${column}`, problem: 'missing' as const })),
    ...columns.removed.map((column) => ({ key: `column ${column}`, problem: 'extra' as const })),
    ...columns.changed.map(({ column, before, after }) => ({
      key: `column ${column}: ${before}, not ${after},`,
      problem: 'different' as const,
    })),
  ];
}

function rowDifferences({ samples }: TablePreview): VerifiedTable['differences'] {
  return samples.map(({ key, before, after }) => ({ key, problem: !before ? 'missing' : !after ? 'extra' : 'different' }));
}
