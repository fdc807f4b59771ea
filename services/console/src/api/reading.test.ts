import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { Reading } from './reading.ts';

describe('how far a listener has read', () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  const answered = (reading: Reading, question: object) => {
    const told: object[] = [];
    const done = (async () => {
      for await (const part of reading.until(question)) told.push(part);
    })();
    return { told, done };
  };

  it('is answered when it is so far, and until then that it is there', async () => {
    const reading = new Reading();
    const { told, done } = answered(reading, { parts: 2 });
    reading.took();
    await vi.advanceTimersByTimeAsync(2_500);
    expect(told).toEqual([{ reading: true }, { reading: true }, { reading: true }]);
    reading.took();
    await done;
    expect(told.at(-1)).toEqual({ parts: 2 });
    const before = answered(reading, { parts: 1 });
    await before.done;
    expect(before.told).toEqual([{ parts: 2 }]);
    const older = answered(new Reading(), {});
    await older.done;
    expect(older.told).toEqual([{ parts: 0 }]);
  });

  it('ends with it', async () => {
    const reading = new Reading();
    const { told, done } = answered(reading, { parts: 1 });
    reading.end();
    await done;
    expect(told).toEqual([{ parts: 0 }]);
  });
});
