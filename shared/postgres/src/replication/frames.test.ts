import { expect, it } from 'vitest';
import { Frames } from './frames.ts';

function message(code: string, length: number): Buffer {
  const bytes = Buffer.alloc(5 + length, code.toLowerCase());
  bytes[0] = code.charCodeAt(0);
  bytes.writeUInt32BE(4 + length, 1);
  return bytes;
}

const MESSAGES = [message('W', 3), message('D', 0), message('X', 40), message('Y', 1), message('Z', 200)];
const ALL = Buffer.concat(MESSAGES);

it('messages are whole however what comes is cut', () => {
  for (let size = 1; size <= ALL.length; size++) {
    const found: Buffer[] = [];
    const frames = new Frames((bytes, start, end) => found.push(Buffer.from(bytes.subarray(start, end))));
    for (let at = 0; at < ALL.length; at += size) frames.push(ALL.subarray(at, at + size));
    expect(found).toEqual(MESSAGES);
  }
});
