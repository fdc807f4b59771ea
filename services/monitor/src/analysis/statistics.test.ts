import { expect, it } from 'vitest';
import { chiSquareTail, gTest, kolmogorovQ, kolmogorovTail } from './statistics.ts';

it('chi-square: critical values as every table prints them', () => {
  const table = [
    [0.05, 1, 3.841],
    [0.01, 1, 6.635],
    [0.05, 10, 18.307],
    [0.001, 5, 20.515],
    [0.95, 10, 3.94],
    [0.05, 100, 124.342],
  ] as const;
  for (const [p, df, x] of table) expect(chiSquareTail(x, df)).toBeCloseTo(p, 4);
  expect(chiSquareTail(0, 3)).toBe(1);
  expect(chiSquareTail(1_000, 3)).toBeLessThan(1e-200);
});

it('Kolmogorov: critical values as every table prints them', () => {
  for (const [p, z] of [
    [0.1, 1.2238],
    [0.05, 1.3581],
    [0.01, 1.6276],
    [0.001, 1.9495],
  ] as const)
    expect(kolmogorovQ(z)).toBeCloseTo(p, 4);
  // Both ways to sum the series meet where one ends and the other begins.
  expect(kolmogorovQ(1.18 - 1e-9)).toBeCloseTo(kolmogorovQ(1.18), 7);
  expect(kolmogorovQ(0)).toBe(1);
  // Two samples of 100: the table of two samples says 1.358 * sqrt(2 / 100) at 5 %; the correction for small samples asks for a little less.
  expect(kolmogorovTail(0.19206, { n: 100, m: 100 })).toBeGreaterThan(0.035);
  expect(kolmogorovTail(0.19206, { n: 100, m: 100 })).toBeLessThan(0.05);
});

it('G-test: by hand, and with seldom categories put together', () => {
  // 2 (10 ln 10/12 + 20 ln 20/18 + 30 ln 30/28 + 40 ln 40/42)
  const { g, df, p } = gTest([
    [10, 30],
    [20, 40],
  ]);
  expect(g).toBeCloseTo(0.80434, 4);
  expect(df).toBe(1);
  expect(p).toBeCloseTo(chiSquareTail(0.80434, 1), 4);
  expect(
    gTest([
      [50, 50],
      [50, 50],
      [1, 0],
      [0, 1],
    ]),
  ).toMatchObject({ df: 2 });
  expect(gTest([[5, 0]])).toEqual({ g: 0, df: 0, p: 1 });
  expect(
    gTest([
      [100, 10],
      [10, 100],
    ]).p,
  ).toBeLessThan(1e-20);
});
