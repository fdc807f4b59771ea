import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const OUTPUT = fileURLToPath(new URL('../dist/output.js', import.meta.url));
const LINES = 3_000;
const LINE = 'x'.repeat(99);

/** More than a pipe holds, then what every command does at its end. */
const PROGRAM = `import { flushed, openOutput } from ${JSON.stringify(OUTPUT)};
const output = openOutput(false);
for (let i = 0; i < ${LINES}; i++) output.line(${JSON.stringify(LINE)});
process.stderr.write('written');
await flushed(process.stdout, process.stderr);
process.exit();`;

describe('flushed', () => {
  it('lets a process end only when a slow reader has taken all of its output', async () => {
    const child = spawn(process.execPath, ['--input-type=module', '-e', PROGRAM], { stdio: ['ignore', 'pipe', 'pipe'] });
    // Only when everything was written does the reader begin.
    await once(child.stderr, 'data');
    let bytes = 0;
    child.stdout.on('data', (chunk: Buffer) => (bytes += chunk.length));
    await once(child, 'close');
    expect(bytes).toBe(LINES * (LINE.length + 1));
  });

  it('does not wait for a reader that is gone', async () => {
    const child = spawn(process.execPath, ['--input-type=module', '-e', PROGRAM], { stdio: ['ignore', 'pipe', 'pipe'] });
    child.stdout.destroy();
    child.stderr.resume();
    const [, signal] = (await once(child, 'close')) as [number | null, string | null];
    expect(signal).toBeNull();
  });
});
