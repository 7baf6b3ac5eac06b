/* The products of thin matrices, written once and compiled for one set of instructions after another.
 *
 * Before each inclusion: LANES floats fill a register, ROWS rows are worked on at once, TARGET is the attribute that
 * lets the compiler use the instructions, NAME(x) the name of x for them.
 *
 * Sizes are numbers of floats, matrices lie row by row, ld* is from one row to the next. Every inner loop has a
 * constant number of turns, so that what it sums up stays in registers.
 */

typedef float NAME(vec) __attribute__((vector_size(4 * LANES)));
typedef int NAME(ivec) __attribute__((vector_size(4 * LANES)));
typedef float NAME(anywhere) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

#define VEC NAME(vec)
#define LOAD(p) (*(const NAME(anywhere) *)(p))
#define STORE(p, v) (*(NAME(anywhere) *)(p) = (v))
#define INLINE static inline __attribute__((always_inline)) TARGET

#if LANES == 16
#define EVEN(a, b) SHUFFLE(NAME(ivec), a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30)
#define ODD(a, b) SHUFFLE(NAME(ivec), a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31)
#define FIRST(a, b) SHUFFLE(NAME(ivec), a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define SECOND(a, b) SHUFFLE(NAME(ivec), a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)
#else
#define EVEN(a, b) SHUFFLE(NAME(ivec), a, b, 0, 2, 4, 6, 8, 10, 12, 14)
#define ODD(a, b) SHUFFLE(NAME(ivec), a, b, 1, 3, 5, 7, 9, 11, 13, 15)
#define FIRST(a, b) SHUFFLE(NAME(ivec), a, b, 0, 8, 1, 9, 2, 10, 3, 11)
#define SECOND(a, b) SHUFFLE(NAME(ivec), a, b, 4, 12, 5, 13, 6, 14, 7, 15)
#endif
#define PAIRS(a, b) (EVEN(a, b) + ODD(a, b))

/* out[m, j] = sum over k of x[m, k] w[j, k]: `rows` rows, `some` columns, at most ROWS and 8. */
INLINE void NAME(dot_block)(int rows, int some, const float *x, size_t ldx, const float *w, size_t ldw, size_t width,
                            float *out, size_t ldo) {
  VEC sums[ROWS][8];
  size_t k = 0;
#pragma GCC unroll 8
  for (int m = 0; m < rows; m++) {
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) sums[m][j] = (VEC){0};
  }
  for (; k + LANES <= width; k += LANES) {
    VEC of_x[ROWS];
#pragma GCC unroll 8
    for (int m = 0; m < rows; m++) of_x[m] = LOAD(x + m * ldx + k);
#pragma GCC unroll 8
    for (int j = 0; j < some; j++) {
      VEC of_w = LOAD(w + j * ldw + k);
#pragma GCC unroll 8
      for (int m = 0; m < rows; m++) sums[m][j] += of_x[m] * of_w;
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < rows; m++) {
    /* Pairs of pairs of pairs: the lanes of eight registers added up at once. */
    VEC *s = sums[m];
    VEC low = PAIRS(PAIRS(s[0], s[1]), PAIRS(s[2], s[3])), high = PAIRS(PAIRS(s[4], s[5]), PAIRS(s[6], s[7]));
    VEC all = PAIRS(low, high);
    if (LANES == 16) all = PAIRS(all, all);
    for (int j = 0; j < some; j++) {
      float sum = all[j];
      for (size_t rest = k; rest < width; rest++) sum += x[m * ldx + rest] * w[j * ldw + rest];
      out[m * ldo + j] = sum;
    }
  }
}

/* y[m, k] += sum over j of c[m cm + j cj] w[j, k]: `rows` rows, `some` terms, at most ROWS and 8. With `base [width]`
 * that is what y begins with, whatever it holds. */
INLINE void NAME(add_block)(int rows, int some, const float *base, float *y, size_t ldy, const float *c, size_t cm, size_t cj,
                            const float *w, size_t ldw, size_t width) {
  VEC of_c[ROWS][8];
  size_t k = 0;
#pragma GCC unroll 8
  for (int m = 0; m < rows; m++) {
#pragma GCC unroll 8
    for (int j = 0; j < some; j++) of_c[m][j] = (VEC){0} + c[m * cm + j * cj];
  }
  for (; k + LANES <= width; k += LANES) {
    VEC of_y[ROWS];
#pragma GCC unroll 8
    for (int m = 0; m < rows; m++) of_y[m] = base ? LOAD(base + k) : LOAD(y + m * ldy + k);
#pragma GCC unroll 8
    for (int j = 0; j < some; j++) {
      VEC of_w = LOAD(w + j * ldw + k);
#pragma GCC unroll 8
      for (int m = 0; m < rows; m++) of_y[m] += of_c[m][j] * of_w;
    }
#pragma GCC unroll 8
    for (int m = 0; m < rows; m++) STORE(y + m * ldy + k, of_y[m]);
  }
  for (; k < width; k++) {
    for (int m = 0; m < rows; m++) {
      if (base) y[m * ldy + k] = base[k];
      for (int j = 0; j < some; j++) y[m * ldy + k] += c[m * cm + j * cj] * w[j * ldw + k];
    }
  }
}

/* Calls BLOCK(rows at once, terms at once, first row, first term) for all rows and terms. Four rows are two and two:
 * of three and one the one would take nearly as long as three. */
#define OVER_ROWS(BLOCK, SOME, j)                      \
  do {                                                 \
    size_t m = 0;                                      \
    while (m < rows) {                                 \
      size_t left = rows - m;                          \
      if (ROWS == 3 && (left == 3 || left > 4)) {      \
        BLOCK(ROWS, SOME, m, j);                       \
        m += ROWS;                                     \
      } else if (ROWS == 3 && left != 1) {             \
        BLOCK(2, SOME, m, j);                          \
        m += 2;                                        \
      } else {                                         \
        BLOCK(1, SOME, m, j);                          \
        m += 1;                                        \
      }                                                \
    }                                                  \
  } while (0)

#define OVER_TERMS(BLOCK)                                          \
  do {                                                             \
    size_t j = 0;                                                  \
    for (; j + 8 <= terms; j += 8) OVER_ROWS(BLOCK, 8, j);         \
    if (j + 4 <= terms) {                                          \
      OVER_ROWS(BLOCK, 4, j);                                      \
      j += 4;                                                      \
    }                                                              \
    for (; j < terms; j++) OVER_ROWS(BLOCK, 1, j);                 \
  } while (0)

/* out[rows, terms] = x[rows, width] w[terms, width]^T */
TARGET static void NAME(dot)(size_t rows, size_t terms, const float *x, size_t ldx, const float *w, size_t ldw,
                             size_t width, float *out, size_t ldo) {
#define DOT(number, some, m, j) \
  NAME(dot_block)(number, some, x + (m) * ldx, ldx, w + (j) * ldw, ldw, width, out + (m) * ldo + (j), ldo)
  OVER_TERMS(DOT);
#undef DOT
}

/* y[rows, width] += c[rows, terms] w[terms, width], where c[m, j] is at c[m cm + j cj]; `base` as above */
TARGET static void NAME(add)(size_t rows, size_t terms, const float *base, float *y, size_t ldy, const float *c, size_t cm, size_t cj,
                             const float *w, size_t ldw, size_t width) {
#define ADD(number, some, m, j) \
  NAME(add_block)(number, some, (j) ? NULL : base, y + (m) * ldy, ldy, c + (m) * cm + (j) * cj, cm, cj, w + (j) * ldw, ldw, width)
  OVER_TERMS(ADD);
#undef ADD
}

/* out[columns, rows] = w[rows, columns]^T */
TARGET static void NAME(transpose)(size_t rows, size_t columns, const float *w, float *out) {
  size_t done = 0; /* rows */
#if LANES == 16
  if (columns == 8) {
    for (; done + 16 <= rows; done += 16) {
      VEC a[8], b[8];
#pragma GCC unroll 8
      for (int i = 0; i < 8; i++) a[i] = LOAD(w + 8 * done + 16 * i);
      /* Each time columns of even and of odd numbers part: by their last, their middle, their first binary digit. */
#pragma GCC unroll 8
      for (int i = 0; i < 4; i++) {
        b[i] = EVEN(a[2 * i], a[2 * i + 1]);
        b[i + 4] = ODD(a[2 * i], a[2 * i + 1]);
      }
#pragma GCC unroll 8
      for (int i = 0; i < 8; i += 4) {
        a[i] = EVEN(b[i], b[i + 1]);
        a[i + 1] = EVEN(b[i + 2], b[i + 3]);
        a[i + 2] = ODD(b[i], b[i + 1]);
        a[i + 3] = ODD(b[i + 2], b[i + 3]);
      }
#pragma GCC unroll 8
      for (int i = 0; i < 4; i++) {
        size_t column = (size_t)((i & 1) * 2 + (i >> 1));
        STORE(out + column * rows + done, EVEN(a[2 * i], a[2 * i + 1]));
        STORE(out + (column + 4) * rows + done, ODD(a[2 * i], a[2 * i + 1]));
      }
    }
  }
#endif
  for (; done < rows; done++) {
    for (size_t j = 0; j < columns; j++) out[j * rows + done] = w[done * columns + j];
  }
}

/* out[columns, rows] = scale w[rows, columns]^T, the way back */
TARGET static void NAME(transpose_back)(size_t rows, size_t columns, float scale, const float *w, float *out) {
  size_t done = 0; /* columns */
#if LANES == 16
  if (rows == 8) {
    for (; done + 16 <= columns; done += 16) {
      VEC a[8], b[8];
#pragma GCC unroll 8
      for (int i = 0; i < 4; i++) {
        size_t row = (size_t)((i & 1) * 2 + (i >> 1));
        VEC low = LOAD(w + row * columns + done) * scale, high = LOAD(w + (row + 4) * columns + done) * scale;
        a[2 * i] = FIRST(low, high);
        a[2 * i + 1] = SECOND(low, high);
      }
#pragma GCC unroll 8
      for (int i = 0; i < 8; i += 4) {
        b[i] = FIRST(a[i], a[i + 2]);
        b[i + 1] = SECOND(a[i], a[i + 2]);
        b[i + 2] = FIRST(a[i + 1], a[i + 3]);
        b[i + 3] = SECOND(a[i + 1], a[i + 3]);
      }
#pragma GCC unroll 8
      for (int i = 0; i < 4; i++) {
        STORE(out + 8 * done + 32 * i, FIRST(b[i], b[i + 4]));
        STORE(out + 8 * done + 32 * i + 16, SECOND(b[i], b[i + 4]));
      }
    }
  }
#endif
  for (; done < columns; done++) {
    for (size_t j = 0; j < rows; j++) out[done * rows + j] = scale * w[j * columns + done];
  }
}
