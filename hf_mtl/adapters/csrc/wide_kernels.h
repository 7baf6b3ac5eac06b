/* The pieces of a product of wide matrices, written once and compiled for one set of instructions after another.
 *
 * After kernels.h, whose macros it uses and ends. Before each inclusion also AT_ONCE: how many rows a tile has at most. A tile is PANEL columns of the
 * result wide, two registers a row; what it sums up stays in registers for TERMS terms. Of the other factor a panel is
 * packed: the terms' values for these columns, one term after another.
 *
 * Each number is summed up term by term in one order, whatever rows are beside it.
 */

#define PANEL (2 * LANES)

/* sums[m] += x[m, k] panel[k], for a term k; every third row has a pointer, the others are one and two rows further, so
 * that all fit into registers. */
#define TERM(k, of_rows, ldx, panel)                                                         \
  do {                                                                                       \
    VEC low = LOAD((panel) + (k) * PANEL), high = LOAD((panel) + (k) * PANEL + LANES);       \
    _Pragma("GCC unroll 16") for (int m = 0; m < rows; m++) {                                \
      float of_x = (of_rows)[m / 3][(k) + m % 3 * (ldx)];                                    \
      sums[m][0] += of_x * low;                                                              \
      sums[m][1] += of_x * high;                                                             \
    }                                                                                        \
  } while (0)

/* What the rows of a tile begin with. */
INLINE void NAME(begin_tile)(int rows, const Tile *t, size_t first, float *y) {
  VEC low = LOAD(t->base), high = LOAD(t->base + LANES), sums[AT_ONCE][2];
  size_t rank = t->rank;
  const float *states = t->states + first * rank, *of_rows[(AT_ONCE + 2) / 3];
  if (!t->together) {
    for (int m = 0; m < rows; m++) {
      const float *factor = t->factors[first + m];
      VEC sum = low, other = high;
      for (size_t r = 0; r < rank; r++) {
        sum += states[m * rank + r] * LOAD(factor + r * PANEL);
        other += states[m * rank + r] * LOAD(factor + r * PANEL + LANES);
      }
      STORE(y + m * t->ldy, sum);
      STORE(y + m * t->ldy + LANES, other);
    }
    return;
  }
#pragma GCC unroll 16
  for (int i = 0; i < (AT_ONCE + 2) / 3; i++) of_rows[i] = states + 3 * i * rank;
#pragma GCC unroll 16
  for (int m = 0; m < rows; m++) sums[m][0] = low, sums[m][1] = high;
  for (size_t r = 0; r < rank; r++) TERM(r, of_rows, rank, t->factors[first]);
#pragma GCC unroll 16
  for (int m = 0; m < rows; m++) {
    STORE(y + m * t->ldy, sums[m][0]);
    STORE(y + m * t->ldy + LANES, sums[m][1]);
  }
}

/* y[m, c] = sum over k of x[m, k] panel[k, c], for `rows` rows and PANEL columns; see Tile. */
INLINE void NAME(tile_of)(int rows, const Tile *t, size_t first) {
  const float *of_rows[(AT_ONCE + 2) / 3], *panel = t->panel;
  float *y = t->y + first * t->ldy;
  size_t ldx = t->ldx, ldy = t->ldy;
  Ask ask = *t->ask;
  NAME(begin_tile)(rows, t, first, y);
#pragma GCC unroll 16
  for (int i = 0; i < (AT_ONCE + 2) / 3; i++) of_rows[i] = t->x + (first + 3 * i) * ldx;
  for (size_t k = 0; k < t->terms;) {
    VEC sums[AT_ONCE][2];
    size_t end = k + smaller(TERMS, t->terms - k);
#pragma GCC unroll 16
    for (int m = 0; m < rows; m++) sums[m][0] = sums[m][1] = (VEC){0};
    for (; k + EACH <= end; k += EACH) {
      if (ask.wait) ask.wait--;
      for (size_t i = 0; !ask.wait && i < ask.rate && ask.left; i++, ask.left--) {
        __builtin_prefetch(ask.row + ask.line * LINE, 0, 2);
        if (++ask.line == ask.lines) ask.line = 0, ask.row += ask.ld;
      }
#pragma GCC unroll 8
      for (int i = 0; i < EACH; i++) TERM(k + i, of_rows, ldx, panel);
    }
    for (; k < end; k++) TERM(k, of_rows, ldx, panel);
#pragma GCC unroll 16
    for (int m = 0; m < rows; m++) {
      STORE(y + m * ldy, LOAD(y + m * ldy) + sums[m][0]);
      STORE(y + m * ldy + LANES, LOAD(y + m * ldy + LANES) + sums[m][1]);
    }
  }
  *t->ask = ask;
}

/* The tiles of these rows. */
TARGET static void NAME(tiles)(size_t rows, const Tile *t) {
  size_t first = 0;
#define TILES(number) \
  for (; first + (number) <= rows; first += (number)) NAME(tile_of)(number, t, first)
  TILES(AT_ONCE);
#if AT_ONCE > 8
  TILES(8);
#endif
  TILES(4);
  TILES(2);
  TILES(1);
#undef TILES
}

/* panel[k, c] = w[c, k], for `columns` columns of `terms` terms; zeros beyond them. */
TARGET static void NAME(pack_rows)(size_t columns, size_t terms, const float *w, size_t ldw, float *panel) {
  size_t k = 0;
  if (columns == PANEL) {
    for (; k + LANES <= terms; k += LANES) {
      for (size_t half = 0; half < PANEL; half += LANES) {
        VEC a[LANES], b[LANES];
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) a[i] = LOAD(w + (half + i) * ldw + k);
        /* Each step brings another binary digit of the row's number to the lane's. */
#pragma GCC unroll 4
        for (int step = 1; step < LANES; step *= 2) {
#pragma GCC unroll 16
          for (int i = 0; i < LANES / 2; i++) b[2 * i] = FIRST(a[i], a[i + LANES / 2]), b[2 * i + 1] = SECOND(a[i], a[i + LANES / 2]);
#pragma GCC unroll 16
          for (int i = 0; i < LANES; i++) a[i] = b[i];
        }
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) STORE(panel + (k + i) * PANEL + half, a[i]);
      }
    }
  }
  for (; k < terms; k++) {
    for (size_t c = 0; c < PANEL; c++) panel[k * PANEL + c] = c < columns ? w[c * ldw + k] : 0;
  }
}

/* panel[k, c] = w[k, c], as above. */
TARGET static void NAME(pack_columns)(size_t columns, size_t terms, const float *w, size_t ldw, float *panel) {
  for (size_t k = 0; k < terms; k++) {
    if (columns == PANEL) {
      STORE(panel + k * PANEL, LOAD(w + k * ldw));
      STORE(panel + k * PANEL + LANES, LOAD(w + k * ldw + LANES));
    } else {
      for (size_t c = 0; c < PANEL; c++) panel[k * PANEL + c] = c < columns ? w[k * ldw + c] : 0;
    }
  }
}

#undef PANEL
#undef TERM
#undef VEC
#undef LOAD
#undef STORE
#undef INLINE
#undef EVEN
#undef ODD
#undef PAIRS
#undef FIRST
#undef SECOND
#undef OVER_ROWS
#undef OVER_TERMS
