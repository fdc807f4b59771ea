import { configReading, type FindingKind, type ProcessConfig } from '@tributary/config';
import { describe, expect, it } from 'vitest';
import type { Finding } from './finding.ts';
import { problemsOf } from './problems.ts';
import { ruleWords } from './words.ts';

const { configOf } = await configReading();

const TEXT = `kind: Source
name: shop
postgres: postgres://a@b/c
---
kind: Process
name: flow
root: order
objects: { order: { table: shop.orders, state: status }, parcel: { table: shop.parcels, state: status, of: { order: order_id } } }
done: "order.status = 'done'"
allowed: { order: ">new; new>paid" }
rules:
  - { name: there, existence: order.paid, within: 90s }
  - { name: never, absence: order.lost }
  - { name: first, init: order.created }
  - { name: ship, response: [order.paid, parcel.sent], within: 1d }
  - { name: pay, precedence: [order.paid, parcel.sent], severity: critical }
  - { name: both, succession: [order.paid, parcel.sent] }
  - { name: next, chain_response: [order.paid, parcel.sent] }
  - { name: late, not_response: [parcel.sent, order.lost], after: 30d }
  - { name: one, not_coexistence: [order.paid, order.lost] }
  - { name: all_sent, condition: "all(parcel.status = 'sent')", at: order.done }
sla: { cycle: { target: 3d }, stage: { order.paid: 6h } }
`;
const process = configOf([{ name: 'a.yaml', text: TEXT }], { env: {} }).processes[0] as ProcessConfig;

const found = (kind: FindingKind, rule: string, ...keys: number[]): Finding[] =>
  keys.map((key) => ({
    kind,
    rule,
    severity: rule === 'pay' ? 'critical' : 'warning',
    case: String(key),
    id: `${rule} ${key}`,
    atUs: key * 1_000_000,
    reason: rule,
    event: null,
  }));

describe('what is wrong, in words', () => {
  it('of every rule, deadline and learned finding', () => {
    const words = (...rules: string[]) => rules.map((rule) => ruleWords(process, rule));
    expect(words('there', 'never', 'first', 'ship', 'pay', 'both', 'next', 'late', 'one', 'all_sent')).toEqual([
      '“order paid” did not happen within 1.5 min',
      '“order lost” happened',
      'something else than “order created” happened first',
      '“order paid” was not followed by “parcel sent” within 1 d',
      '“parcel sent” happened without “order paid” before it',
      '“order paid” and “parcel sent” did not follow one another',
      '“order paid” was not directly followed by “parcel sent”',
      '“order lost” happened more than 30 d after “parcel sent”',
      '“order paid” and “order lost” both happened',
      'its condition did not hold at “order done”',
    ]);
    const kept = (...rules: string[]) => rules.map((rule) => ruleWords(process, rule, 'kept'));
    expect(kept('there', 'never', 'first', 'ship', 'pay', 'both', 'next', 'late', 'one', 'all_sent')).toEqual([
      '“order paid” always happens within 1.5 min',
      '“order lost” never happens',
      '“order created” always happens first',
      '“order paid” is always followed by “parcel sent” within 1 d',
      '“parcel sent” never happens without “order paid” before it',
      '“order paid” and “parcel sent” always follow one another',
      '“order paid” is always directly followed by “parcel sent”',
      '“order lost” never happens more than 30 d after “parcel sent”',
      '“order paid” and “order lost” never both happen',
      'its condition always holds at “order done”',
    ]);
    expect(kept('sla.cycle', 'sla.order.paid', 'allowed.order')).toEqual([
      'always done within 3 d',
      'no order stays paid for longer than 6 h',
      'order changes its state only in ways that are allowed',
    ]);
    expect(words('sla.cycle', 'sla.order.paid', 'allowed.order')).toEqual([
      'not done within 3 d',
      'order stayed paid for longer than 6 h',
      'order changed its state in a way that is not allowed',
    ]);
    expect(words('stuck.order.paid', 'missing.parcel sent', 'silent.order.paid>new', 'silent.order.deleted', 'drift')).toEqual([
      'order stays paid for longer than usual',
      '“parcel sent” did not happen, though it usually does',
      'order went back from paid to new',
      'order was deleted before its case was done',
      'cases go other ways, or at another pace, than before',
    ]);
    expect(words('a rule of an older definition')).toEqual(['a rule of an older definition']);
  });

  it('the worst first, each case once with its newest, and rules that all keep last', () => {
    const problems = problemsOf(
      process,
      [...found('rule', 'ship', 1, 2, 3), ...found('rule', 'pay', 4, 5, 5), ...found('sla', 'sla.cycle', 7)],
      2,
    );
    expect(problems.slice(0, 3).map(({ rule, cases, newest }) => [rule, cases, newest.map((one) => one.case)])).toEqual([
      ['pay', 2, ['5', '4']],
      ['ship', 3, ['3', '2']],
      ['sla.cycle', 1, ['7']],
    ]);
    expect(problems[0]).toMatchObject({ severity: 'critical', kind: 'rule', since: '1970-01-01T00:00:04.000000Z' });
    const kept = problems.slice(3);
    expect(kept.every(({ cases, since }) => cases === 0 && since === null)).toBe(true);
    expect(kept.map(({ rule }) => rule)).toContain('allowed.order');
    expect(kept.find(({ rule }) => rule === 'never')?.words).toBe('“order lost” never happens');
  });

  it('what is late in the same cases is one problem, called after the root', () => {
    const problems = problemsOf(
      process,
      [
        ...found('missing', 'missing.parcel sent', 1, 2, 3, 4, 9),
        ...found('stuck', 'stuck.parcel.packed', 1, 2, 3, 4),
        ...found('stuck', 'stuck.order.paid', 1, 2, 3, 4, 5),
        ...found('stuck', 'stuck.order.new', 20, 21),
      ],
      10,
    ).filter(({ cases }) => cases > 0);
    expect(problems.map(({ rule, cases, also }) => [rule, cases, also.map((one) => one.rule)])).toEqual([
      ['stuck.order.paid', 6, ['stuck.parcel.packed', 'missing.parcel sent']],
      ['stuck.order.new', 2, []],
    ]);
  });
});
