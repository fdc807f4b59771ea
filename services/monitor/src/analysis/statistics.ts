/**
 * Tests whether two samples may come from one distribution. Pure.
 *
 * Sources: W. H. Press et al., Numerical Recipes, 3rd ed.: the incomplete gamma function (6.2), Kolmogorov-Smirnov (6.14.56, 14.3.18).
 */

/** Terms of a series or fraction; both converge long before. */
const TERMS_MAX = 10_000;
const EPSILON = 1e-14;

/** Natural logarithm of the gamma function (Lanczos), to about 15 digits for positive arguments. */
function lnGamma(x: number): number {
  const c = [
    57.15623566586292, -59.59796035547549, 14.136097974741746, -0.4919138160976202, 0.00003399464998481189,
    0.00004652362892704858, -0.00009837447530487956, 0.0001580887032249125, -0.00021026444172410488, 0.00021743961811521265,
    -0.0001643181065367639, 0.00008441822398385275, -0.000026190838401581408, 0.0000036899182659531625,
  ];
  const t = x + 671 / 128;
  const sum = c.reduce((all, one, i) => all + one / (x + i + 1), 0.9999999999999971);
  return (x + 0.5) * Math.log(t) - t + Math.log((2.5066282746310007 * sum) / x);
}

/** Upper regularised incomplete gamma function Q(a, x). */
function gammaQ(a: number, x: number): number {
  if (x <= 0) return 1;
  const front = Math.exp(-x + a * Math.log(x) - lnGamma(a));
  if (x < a + 1) {
    let [term, sum] = [1 / a, 1 / a];
    for (let n = 1; n < TERMS_MAX && Math.abs(term) > Math.abs(sum) * EPSILON; n++) {
      term *= x / (a + n);
      sum += term;
    }
    return Math.max(0, 1 - sum * front);
  }
  // Lentz's way to evaluate the continued fraction.
  const tiny = 1e-300;
  let b = x + 1 - a;
  let c = 1 / tiny;
  let d = 1 / b;
  let h = d;
  for (let i = 1; i < TERMS_MAX; i++) {
    const an = -i * (i - a);
    b += 2;
    d = an * d + b;
    if (Math.abs(d) < tiny) d = tiny;
    c = b + an / c;
    if (Math.abs(c) < tiny) c = tiny;
    d = 1 / d;
    h *= d * c;
    if (Math.abs(d * c - 1) < EPSILON) break;
  }
  return Math.min(1, front * h);
}

/** Probability that a chi-square variable of `df` degrees of freedom is at least `x`. */
export function chiSquareTail(x: number, df: number): number {
  return df <= 0 ? 1 : gammaQ(df / 2, x / 2);
}

/** Probability that the two-sample Kolmogorov-Smirnov distance is at least `d`, for samples of these sizes (asymptotic; good from about 8 on). */
export function kolmogorovTail(d: number, { n, m }: { readonly n: number; readonly m: number }): number {
  const root = Math.sqrt((n * m) / (n + m));
  return kolmogorovQ((root + 0.12 + 0.11 / root) * d);
}

/** Complement of the Kolmogorov distribution. */
export function kolmogorovQ(z: number): number {
  if (z <= 0) return 1;
  if (z < 1.18) {
    const y = Math.exp(-((Math.PI / z) ** 2) / 8);
    return 1 - (Math.sqrt(2 * Math.PI) / z) * (y + y ** 9 + y ** 25 + y ** 49);
  }
  const x = Math.exp(-2 * z * z);
  return 2 * (x - x ** 4 + x ** 9);
}

/** Below this a category is too seldom for the test, and is put together with others that are. */
const EXPECTED_MIN = 5;

/**
 * G-test of independence: do two samples have the same shares of each category?
 * @param counts per category, in the one and the other sample
 */
export function gTest(counts: readonly (readonly [number, number])[]): {
  readonly g: number;
  readonly df: number;
  readonly p: number;
} {
  const [left, right] = [0, 1].map((i) => counts.reduce((sum, pair) => sum + (pair[i] as number), 0)) as [number, number];
  const all = left + right;
  const least = Math.min(left, right) / Math.max(1, all);
  const large = counts.filter(([a, b]) => (a + b) * least >= EXPECTED_MIN);
  const rest = counts.filter(([a, b]) => (a + b) * least < EXPECTED_MIN);
  const pooled: (readonly [number, number])[] = [
    ...large,
    ...(rest.length > 0 ? [rest.reduce<readonly [number, number]>(([a, b], [c, d]) => [a + c, b + d], [0, 0])] : []),
  ];
  const df = pooled.length - 1;
  if (df < 1 || left === 0 || right === 0) return { g: 0, df: 0, p: 1 };
  const part = (observed: number, expected: number) => (observed === 0 ? 0 : observed * Math.log(observed / expected));
  const g = 2 * pooled.reduce((sum, [a, b]) => sum + part(a, ((a + b) * left) / all) + part(b, ((a + b) * right) / all), 0);
  return { g, df, p: chiSquareTail(g, df) };
}
