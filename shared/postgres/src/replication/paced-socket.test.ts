import { PassThrough } from 'node:stream';
import { expect, it } from 'vitest';
import { PacedSocket } from './paced-socket.ts';

/** A stream whose reader has so much to do that it rests, and all that it took so far. */
async function resting() {
  const stream = new PassThrough();
  const taken: string[] = [];
  const paced = new PacedSocket(stream, (chunk) => taken.push(chunk.toString()));
  while (!stream.isPaused()) {
    stream.write('first');
    await new Promise((resolve) => setImmediate(resolve));
  }
  taken.length = 0;
  return { stream, paced, taken };
}

it('takes all that was gathered in a rest before it rests again', async () => {
  const { stream, taken } = await resting();
  const chunks = Array.from({ length: 50 }, (_, i) => `${i}`);
  for (const chunk of chunks) stream.write(chunk);
  const seen: string[][] = [];
  // What is taken in one turn, rests being longer than a turn.
  stream.on('resume', () => setImmediate(() => seen.push([...taken])));
  await expect.poll(() => seen.length).toBeGreaterThan(0);
  expect(seen[0]).toEqual(chunks);
});

it('takes nothing while it is held, whether or not it rests, and all of it afterwards', async () => {
  const { stream, paced, taken } = await resting();
  paced.hold();
  const ended = new Promise((resolve) => stream.once('end', resolve));
  stream.end('behind');
  // Longer than a rest: a timer that was set after its own has the same length.
  await new Promise((resolve) => setTimeout(resolve, 1));
  await new Promise((resolve) => setTimeout(resolve, 1));
  expect(taken).toEqual([]);
  paced.release();
  await ended;
  expect(taken).toEqual(['behind']);
});
