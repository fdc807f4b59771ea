import fc from 'fast-check';
import { expect, it } from 'vitest';
import { CsvCutter } from './csv-cutter.ts';

it('cuts between rows only, whatever the pieces', () => {
  const cell = fc.constantFrom('', '1', 'plain', '"a\nb"', '"say ""hi"""', '"\n\n"', '""""');
  fc.assert(
    fc.property(
      fc.array(fc.tuple(cell, cell)),
      fc.integer({ min: 1, max: 40 }),
      fc.integer({ min: 1, max: 30 }),
      (rows, target, step) => {
        const lines = rows.map((row) => `${row.join(',')}\n`);
        const bytes = Buffer.from(lines.join(''));
        const cutter = new CsvCutter(target);
        const cuts = [];
        for (let at = 0; at < bytes.length; at += step) cuts.push(cutter.push(bytes.subarray(at, at + step)));
        cuts.push(cutter.end());
        const found = cuts.filter((cut) => cut !== null);
        expect(Buffer.concat(found.map((cut) => cut.bytes)).equals(bytes)).toBe(true);
        let row = 0;
        for (const cut of found) {
          expect(Buffer.from(cut.bytes).toString()).toBe(lines.slice(row, row + cut.rows).join(''));
          row += cut.rows;
        }
        expect(row).toBe(rows.length);
      },
    ),
  );
});
