import { configReading, inputsOf } from '@tributary/config';
import { Fault } from '@tributary/core';
import { environment, stopSignal } from '@tributary/ops';
import { type Preview, previewTransform, type TablePreview } from '@tributary/transform';
import { connect, type Where } from '../addresses.ts';
import { type Output, table } from '../output.ts';

export interface TransformOptions extends Where {
  readonly file: readonly string[];
  readonly samples: string;
}

/** `transform preview [NAME] -f FILE`: what the transforms of a file would make, beside what they make now. */
export async function transform(
  action: string,
  name: string | undefined,
  { options, output }: { options: TransformOptions; output: Output },
): Promise<void> {
  if (action !== 'preview')
    throw new Fault('config_invalid', `there is no "transform ${action}": use "transform preview [NAME] -f FILE"`);
  if (options.file.length === 0) throw new Fault('config_invalid', 'transform preview needs -f FILE');
  const samples = Number(options.samples);
  if (!Number.isInteger(samples) || samples < 0)
    throw new Fault('config_invalid', `--samples ${options.samples}: expected a whole number`);
  const { configOf, readFiles } = await configReading();
  const config = configOf(await readFiles(options.file), { env: environment() });
  const chosen = config.transforms.filter((one) => name === undefined || one.name === name);
  if (chosen.length === 0) {
    const known = config.transforms.map((one) => one.name).join(', ') || 'none';
    throw new Fault(
      'not_found',
      name === undefined ? 'the files hold no transform' : `the files hold no transform ${name}. Transforms: ${known}`,
    );
  }
  const connected = await connect(options);
  try {
    for (const one of chosen) {
      const { broker } = connected;
      const told = await previewTransform({ config: one, inputs: inputsOf(one, config), broker, samples, signal: stopSignal() });
      if (output.json) output.value(told);
      else show(told, output);
    }
  } finally {
    await connected.broker.close();
  }
}

function show({ transform: name, at, tables, incomplete }: Preview, output: Output): void {
  output.line(
    `${name} at ${Object.entries(at)
      .map((one) => one.join(' '))
      .join(', ')}`,
  );
  output.line(
    table(
      ['table', 'rows now', 'rows then', 'added', 'removed', 'changed'],
      tables.map((one) => [one.table, one.rowsBefore ?? 'no table', one.rows, one.added, one.removed, one.changed]),
    ),
  );
  for (const one of tables) showTable(one, output);
  for (const input of incomplete)
    output.line(`The history of ${input} does not reach back to its beginning: rows not touched since are missing.`);
}

function showTable({ table: name, columns, samples }: TablePreview, output: Output): void {
  for (const column of columns.added) output.line(`${name}: + ${column}`);
  for (const column of columns.removed) output.line(`${name}: - ${column}`);
  for (const { column, before, after } of columns.changed) output.line(`${name}: ${column} ${before} -> ${after}`);
  for (const { before, after } of samples) {
    if (before) output.line(`${name}: - ${JSON.stringify(before)}`);
    if (after) output.line(`${name}: + ${JSON.stringify(after)}`);
  }
}
