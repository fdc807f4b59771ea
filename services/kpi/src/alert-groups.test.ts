import { describe, expect, it } from 'vitest';
import { groupedName, groupNamed, groupOf } from './alert-groups.ts';

describe('the name of an alert about one value', () => {
  it('says which, and can be taken apart again', () => {
    const group = groupOf({ country: 'Österreich, {a}=b/c:d', year: 2026, channel: null, empty: '' });
    const name = groupedName('drop', group);
    expect(name).toBe('drop{country=%C3%96sterreich%2C%20%7Ba%7D%3Db%2Fc%3Ad,year=2026,channel,empty=}');
    expect(groupNamed(name)).toEqual({
      alert: 'drop',
      group: { country: 'Österreich, {a}=b/c:d', year: '2026', channel: null, empty: '' },
    });
    expect([groupedName('drop', {}), groupNamed('drop')]).toEqual(['drop', { alert: 'drop', group: {} }]);
  });

  it('tells long values apart, however much of them is the same', () => {
    const [one, other] = ['a', 'b'].map((end) => groupOf({ note: `${'😀'.repeat(300)}${end}` }));
    expect(one).not.toEqual(other);
    for (const group of [one, other]) {
      const name = groupedName('drop', group ?? {});
      expect(name.length).toBeLessThan(1_000);
      expect(groupNamed(name).group).toEqual(group);
    }
  });
});
