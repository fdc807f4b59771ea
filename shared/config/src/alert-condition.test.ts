import { describe, expect, it } from 'vitest';
import { type AlertExpression, type AlertNames, parseCondition } from './alert-condition.ts';

const NAMES: AlertNames = { measures: ['gmv', 'orders'], grains: ['hour', 'day', 'week'] };

/** An expression with every operation in brackets. */
function told(expression: AlertExpression): string {
  switch (expression.kind) {
    case 'number':
      return String(expression.value);
    case 'value':
      return `${expression.measure}(${expression.grain}, ${expression.bucket})`;
    case 'baseline':
      return `baseline(${expression.measure}, ${expression.grain}, ${expression.of}, ${expression.count})`;
    case 'minus':
    case 'not':
      return `(${expression.kind} ${told(expression.of)})`;
    default:
      return `(${told(expression.left)} ${expression.operator} ${told(expression.right)})`;
  }
}

describe('conditions of alerts', () => {
  it.each([
    [
      'gmv(hour) < 0.5 * baseline(gmv, hour, same_weekday, 4)',
      '(gmv(hour, closed) < (0.5 * baseline(gmv, hour, same_weekday, 4)))',
    ],
    ['gmv(day, open)>1+2*3-4', '(gmv(day, open) > ((1 + (2 * 3)) - 4))'],
    [
      'not gmv(day) = 1 and orders(day) >= 2 or orders(day) != 3',
      '(((not (gmv(day, closed) = 1)) and (orders(day, closed) >= 2)) or (orders(day, closed) != 3))',
    ],
    [
      'gmv(day) > 1 AND (orders(day) < 2 OR orders(day) <= -1)',
      '((gmv(day, closed) > 1) and ((orders(day, closed) < 2) or (orders(day, closed) <= (minus 1))))',
    ],
    [
      'gmv(day) / orders(day) / 2 < baseline(gmv, week, previous, 52)',
      '(((gmv(day, closed) / orders(day, closed)) / 2) < baseline(gmv, week, previous, 52))',
    ],
  ])('%s', (text, expected) => {
    expect(told(parseCondition(text, NAMES))).toBe(expected);
  });

  it('of a KPI without time name measures alone', () => {
    expect(told(parseCondition('gmv > 1', { ...NAMES, grains: [] }))).toBe('(gmv(null, closed) > 1)');
  });

  it.each([
    ['', 'character 1: expected a number, a measure or baseline(…), not the end'],
    ['gmv(hour)', 'character 1: expected a comparison, such as gmv(hour) < 100'],
    ['gmv < 1', 'character 5: expected "(" and a grain: hour, day, week, not "<"'],
    ['gmw(hour) < 1', 'character 1: there is no measure gmw. Measures: gmv, orders'],
    ['gmv(month) < 1', 'character 5: month is not among time.grains: hour, day, week'],
    ['gmv(hour, last) < 1', 'character 11: expected closed or open, not "last"'],
    ['gmv(hour < 1', 'character 10: expected ")", not "<"'],
    ['gmv(hour) < 1 gmv(day) > 2', 'character 15: expected and, or, or nothing more, not "gmv"'],
    ['gmv(hour) < 1 < 2', 'character 15: expected and, or, or nothing more, not "<"'],
    ['gmv(hour) and gmv(day) > 1', 'character 1: expected a comparison, not a number'],
    ['(gmv(hour) > 1) + 2 > 3', 'character 1: expected a number, not a comparison'],
    ['1 + gmv(hour) > 1 or 2', 'character 22: expected a comparison, not a number'],
    ['gmv(hour) < 1; DROP', 'character 14: ";" means nothing here'],
    ['baseline(gmv, week, same_weekday, 4) > 1', 'character 15: same_weekday is for the grains minute, hour, day'],
    ['baseline(gmv, day, same_time, 4) > 1', 'character 15: same_time is for the grains minute, hour'],
    ['baseline(gmv, day, previous, 0) > 1', 'character 30: expected a whole number from 1 to 52'],
    ['baseline(gmv, day, previous) > 1', 'character 28: expected ",", not ")"'],
    ['baseline(gmv, day, usual, 1) > 1', 'character 20: expected same_weekday or same_time or previous, not "usual"'],
  ])('refuses %s', (text, expected) => {
    expect(() => parseCondition(text, NAMES)).toThrow(expected);
  });
});
