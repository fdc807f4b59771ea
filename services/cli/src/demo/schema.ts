/** The three teams' databases of the demo, each knowing only its own business. Ids of orders are the only thing they share. */
export const SCHEMAS: Readonly<Record<'shop' | 'payments' | 'logistics', string>> = {
  shop: `
CREATE TYPE order_status AS ENUM ('placed', 'paid', 'packed', 'shipped', 'delivered', 'cancelled', 'returned');
CREATE TABLE customers (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, email text NOT NULL, city text NOT NULL,
  address text NOT NULL, created_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE products (id int PRIMARY KEY, name text NOT NULL, category text NOT NULL, price numeric(10,2) NOT NULL, tags text[] NOT NULL DEFAULT '{}',
  updated_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer_id bigint NOT NULL REFERENCES customers, status order_status NOT NULL DEFAULT 'placed',
  total numeric(12,2) NOT NULL, note text, placed_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE order_items (order_id bigint REFERENCES orders ON DELETE CASCADE, line int, product_id int NOT NULL REFERENCES products, quantity int NOT NULL,
  price numeric(10,2) NOT NULL, PRIMARY KEY (order_id, line));`,
  payments: `
CREATE TABLE payments (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, order_id bigint NOT NULL, method text NOT NULL, amount numeric(12,2) NOT NULL,
  status text NOT NULL, authorised_at timestamptz NOT NULL DEFAULT now(), captured_at timestamptz);
CREATE TABLE refunds (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, payment_id bigint NOT NULL REFERENCES payments ON DELETE CASCADE, amount numeric(12,2) NOT NULL,
  reason text NOT NULL, refunded_at timestamptz NOT NULL DEFAULT now());`,
  logistics: `
CREATE TABLE stock (product_id int, warehouse text, quantity int NOT NULL, updated_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (product_id, warehouse));
CREATE TABLE parcels (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, order_id bigint NOT NULL, warehouse text NOT NULL, carrier text NOT NULL,
  status text NOT NULL, weight_grams int NOT NULL, updated_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE scans (parcel_id bigint NOT NULL REFERENCES parcels ON DELETE CASCADE, scanned_at timestamptz NOT NULL DEFAULT now(), place text NOT NULL,
  PRIMARY KEY (parcel_id, scanned_at, place));`,
};

const ADJECTIVES = ['Light', 'Sturdy', 'Classic', 'Urban', 'Alpine', 'Silent', 'Bright', 'Warm'];
const THINGS: readonly (readonly [string, string, number])[] = [
  ['Sneaker', 'shoes', 79.9],
  ['Boot', 'shoes', 129],
  ['Sandal', 'shoes', 39.5],
  ['Jacket', 'clothes', 149],
  ['Shirt', 'clothes', 29.9],
  ['Scarf', 'accessories', 19.9],
  ['Backpack', 'accessories', 89],
];

export const WAREHOUSES = ['Berlin', 'Lyon', 'Poznań'];
/** Where parcels lie long before they are shipped: what the process of the demo shows. */
export const SLOW_WAREHOUSE = 'Poznań';
export const CITIES = ['Berlin', 'Hamburg', 'Paris', 'Lyon', 'Kraków', 'Wien', 'Zürich', 'Milano'];

/** Every product of the shop: `[id, name, category, price]`. */
export const PRODUCTS = ADJECTIVES.flatMap((adjective, a) =>
  THINGS.map(([thing, category, price], t) => ({
    id: a * THINGS.length + t + 1,
    name: `${adjective} ${thing}`,
    category,
    price: price + a,
  })),
);
