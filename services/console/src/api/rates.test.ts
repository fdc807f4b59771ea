import { expect, test } from 'vitest';
import { Rates } from './rates.ts';

test('a rate is what a counter grew by, over the time between the two tellings', () => {
  const rates = new Rates(10);
  rates.tell('shop', 100, 1_000);
  rates.tick(1_000);
  rates.tell('shop', 150, 3_000);
  rates.tick(3_000);
  expect(rates.latest()).toEqual({ shop: 25 });
  expect(rates.history()).toEqual({ at: [1_000, 3_000], series: { shop: [null, 25] } });
});

test('a counter that nobody told of anew is a gap, not a zero', () => {
  const rates = new Rates(10);
  rates.tell('shop', 100, 1_000);
  rates.tick(1_000);
  rates.tick(2_000);
  expect(rates.latest()).toEqual({ shop: null });
});

test('a counter that fell was restarted from zero', () => {
  const rates = new Rates(10);
  rates.tell('shop', 1_000_000, 1_000);
  rates.tick(1_000);
  rates.tell('shop', 30, 2_000);
  rates.tick(2_000);
  expect(rates.latest()).toEqual({ shop: 30 });
});

test('a series that appears later is filled up with gaps, and the window is bounded', () => {
  const rates = new Rates(2);
  rates.tell('shop', 0, 1_000);
  rates.tick(1_000);
  rates.tell('payments', 0, 2_000);
  rates.tick(2_000);
  expect(rates.history().series).toEqual({ shop: [null, null], payments: [null, null] });
  rates.tell('payments', 5, 3_000);
  rates.tick(3_000);
  expect(rates.history()).toEqual({ at: [2_000, 3_000], series: { shop: [null, null], payments: [null, 5] } });
});

test('a forgotten series leaves once its past has left the window', () => {
  const rates = new Rates(2);
  for (const at of [1_000, 2_000]) {
    rates.tell('shop', at, at);
    rates.tick(at);
  }
  rates.forget('shop');
  rates.tick(3_000);
  expect(rates.history().series).toEqual({ shop: [1_000, null] });
  rates.tick(4_000);
  expect(rates.history().series).toEqual({});
});
