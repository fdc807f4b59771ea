import { describeError, Fault } from '@tributary/core';
import cliProgress from 'cli-progress';

/** Where a command's result goes: stdout, as text for people or JSON for programs. */
export interface Output {
  readonly json: boolean;
  /** One line of result. */
  line(text: string): void;
  /** One JSON document on one line. */
  value(value: unknown): void;
}

export function openOutput(json: boolean): Output {
  return {
    json,
    line: (text) => process.stdout.write(`${text}\n`),
    value: (value) =>
      process.stdout.write(`${JSON.stringify(value, (_key, one: unknown) => (typeof one === 'bigint' ? String(one) : one))}\n`),
  };
}

/**
 * Resolves when everything written so far has left this process. To be awaited before `process.exit`: what a slow reader of a pipe has
 * not taken yet stands in memory, and would be lost without a word.
 */
export async function flushed(...streams: readonly NodeJS.WritableStream[]): Promise<void> {
  // A reader that is gone wants nothing more: its error is as good an end.
  await Promise.all(streams.map((stream) => new Promise<void>((resolve) => stream.write('', () => resolve()))));
}

/** Aligned columns; numbers to the right. */
export function table(head: readonly string[], rows: readonly (readonly unknown[])[]): string {
  const texts = rows.map((row) => row.map((cell) => (cell === null || cell === undefined ? '' : String(cell))));
  const widths = head.map((name, c) => Math.max(name.length, ...texts.map((row) => row[c]?.length ?? 0)));
  const right = head.map((_, c) => rows.length > 0 && rows.every((row) => row[c] === null || typeof row[c] === 'number'));
  const format = (row: readonly string[]) =>
    row
      .map((cell, c) => (right[c] ? cell.padStart(widths[c] as number) : cell.padEnd(widths[c] as number)))
      .join('  ')
      .trimEnd();
  return [format(head), format(widths.map((width) => '─'.repeat(width))), ...texts.map(format)].join('\n');
}

/** Long work: a bar on a terminal, JSON lines with `--json`, silence otherwise. */
export function openProgress(
  output: Output,
  title: string,
): { at(done: number, total: number, value: unknown): void; end(): void } {
  const shown = !output.json && process.stderr.isTTY;
  const bar = shown
    ? new cliProgress.SingleBar({ format: `${title} {bar} {percentage}% {value}/{total}`, stream: process.stderr })
    : null;
  let started = false;
  return {
    at(done, total, value) {
      if (output.json) output.value(value);
      if (!bar) return;
      if (!started) bar.start(total, done);
      started = true;
      bar.setTotal(total);
      bar.update(done);
    },
    end() {
      if (started) bar?.stop();
    },
  };
}

/** What went wrong and what to do, on stderr. */
export function tellError(error: unknown): void {
  process.stderr.write(`${describeError(error)}\n`);
  if (error instanceof Fault && error.kind !== 'config_invalid') process.stderr.write(`${error.advice}\n`);
  if (!(error instanceof Fault) && error instanceof Error && process.env['TRIBUTARY_LOG'] === 'debug')
    process.stderr.write(`${error.stack}\n`);
}

/** `30s`, `2m`, `500ms` as milliseconds. @throws Fault `config_invalid` */
export function milliseconds(text: string): number {
  const match = /^(\d+(?:\.\d+)?)(ms|s|m|h)?$/.exec(text);
  if (!match) throw new Fault('config_invalid', `"${text}" is not a duration: write 500ms, 30s or 2m`);
  return Number(match[1]) * { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 }[(match[2] ?? 's') as 'ms'];
}
