/* y += s B(t) A(t) x for rows of many tasks, and the gradients of it: what low_rank.py does in torch's products, for
 * floats of 32 bits on an x86 processor. There a product with the few columns of a rank runs at a third of the speed
 * that one of two wide matrices has, weights of many tasks are copied side by side first, and each call costs as much
 * as the product of a few words. If wanted y = W x + b + s B(t) A(t) x, one product.
 *
 * Tensors are looked at, their addresses taken and the adapters' weights read in one call that holds the interpreter's
 * lock: another thread may lay them elsewhere, and free where they were. It is let go for the product with W, of which
 * the caller passes tensors of its own, that hold their memory.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if !defined(__x86_64__)
#error "written for x86-64; hf_mtl uses torch's own products elsewhere"
#endif

#ifdef __clang__
#define SHUFFLE(mask, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(mask, a, b, ...) __builtin_shuffle(a, b, (mask){__VA_ARGS__})
#endif

/* Terms of a wide product that are summed up before they are added to the result, as MKL does it on such processors:
 * its numbers are ours to the bit but for 193 to 383 terms, which it takes in halves. After EACH memory is asked for. */
#define TERMS 192
#define EACH 8
/* Floats of a line of the cache. */
#define LINE 16

/* Memory to ask for: `lines` lines of the cache beside each other, then those of the next row. */
typedef struct {
  const float *row;
  size_t ld, lines, line; /* the next one */
  size_t wait;            /* for so many times */
  size_t left, rate;      /* in all; at a time */
} Ask;

/* A part of a wide product: rows of x, and a panel of columns. */
typedef struct {
  size_t terms;
  const float *x;
  size_t ldx;
  const float *panel; /* [terms, columns] */
  float *y;
  size_t ldy;
  Ask *ask;                /* for memory on the way, after each EACH terms */
  const float *base;       /* what each row begins with */
  size_t rank;             /* of what rows are given beside: states times the factors of each row, [rank, columns] */
  const float *states;
  const float *const *factors;
  int together; /* all rows have the same */
} Tile;

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

#define LANES 16
#define ROWS 3
#define TARGET __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")))
#define NAME(x) x##_avx512
#define AT_ONCE 12
#include "kernels.h"
#include "wide_kernels.h"
#undef LANES
#undef ROWS
#undef AT_ONCE
#undef TARGET
#undef NAME

#define LANES 8
#define ROWS 1
#define TARGET __attribute__((target("avx2,fma")))
#define NAME(x) x##_avx2
#define AT_ONCE 6
#include "kernels.h"
#include "wide_kernels.h"

typedef struct {
  void (*dot)(size_t, size_t, const float *, size_t, const float *, size_t, size_t, float *, size_t);
  void (*add)(size_t, size_t, const float *, float *, size_t, const float *, size_t, size_t, const float *, size_t, size_t);
  void (*transpose)(size_t, size_t, const float *, float *);
  void (*transpose_back)(size_t, size_t, float, const float *, float *);
  size_t panel; /* its columns */
  void (*tiles)(size_t, const Tile *);
  void (*pack_rows)(size_t, size_t, const float *, size_t, float *);
  void (*pack_columns)(size_t, size_t, const float *, size_t, float *);
} Kernels;

static const Kernels OF_AVX512 = {dot_avx512,      add_avx512,   transpose_avx512, transpose_back_avx512, 32,
                                  tiles_avx512, pack_rows_avx512, pack_columns_avx512};
static const Kernels OF_AVX2 = {dot_avx2,      add_avx2,   transpose_avx2, transpose_back_avx2, 16,
                                tiles_avx2, pack_rows_avx2, pack_columns_avx2};
static const Kernels *kernels = NULL;

/* Rows of which x, the states and y are worked on together while they are near. */
#define BLOCK 6

/* What both directions are given. */
typedef struct {
  size_t tokens, in, out, rank, each; /* each: tokens of a row of the batch */
  size_t number, runs;                /* of tasks; of runs of rows of one task */
  const float *x;
  float *states;            /* A x, [tokens, rank] */
  const float **down, **up; /* of each task: A [rank, in], B [out, rank] */
  float *scales;            /* of each task */
  size_t *ends, *tasks;     /* of each run: the row after its last, and whose it is */
  float *above;             /* y, or its gradient: [tokens, out] */
  float *more;              /* the bias, or the gradient of x; NULL: there is none */
  const float *weight;      /* of the base layer, [out, in], where its product is ours too, else NULL */
} Products;

/* Neighbouring tokens of one task; begins as all zeros. */
typedef struct {
  size_t number, before; /* runs and tokens that have been */
  size_t start, stop, task;
} Run;

/* Where the part of thread `k` of `threads` begins, in steps of `step`. */
static size_t part(size_t all, size_t step, size_t k, size_t threads) {
  size_t steps = (all + step - 1) / step;
  return smaller(all, (steps * k / threads) * step);
}

/* Goes on to the next run of the tokens from `first` on before `last`, cut to them; 0: there is none. */
static int next_run(const Products *p, size_t first, size_t last, Run *run) {
  while (run->number < p->runs && run->before < last) {
    size_t after = p->ends[run->number] * p->each;
    run->start = run->before > first ? run->before : first;
    run->stop = smaller(after, last);
    run->task = p->tasks[run->number++];
    run->before = after;
    if (run->start < run->stop) return 1;
  }
  return 0;
}

/* Asks for part `k` of `parts` of a weight. */
static void ask_for(const float *weight, size_t size, size_t k, size_t parts) {
  size_t end = size * (k + 1) / parts;
  for (size_t i = size * k / parts / LINE * LINE; i < end; i += LINE) __builtin_prefetch(weight + i, 0, 2);
}

/* The weights of the next run, part by part beside the blocks of this one: to wait for those of many tasks takes
 * longer than their products. */
static void ask_for_next(const Products *p, const Run *run, size_t last, size_t k) {
  if (run->number == p->runs || run->stop == last) return;
  size_t task = p->tasks[run->number], blocks = (run->stop - run->start + BLOCK - 1) / BLOCK;
  ask_for(p->down[task], p->rank * p->in, k, blocks);
  ask_for(p->up[task], p->rank * p->out, k, blocks);
}

/* y = bias + s B A x, or y += s B A x where there is none to begin with. */
static void add_low_rank(const Products *p, size_t first, size_t last, float *up, float *scaled) {
  for (Run run = {0}; next_run(p, first, last, &run);) {
    kernels->transpose(p->out, p->rank, p->up[run.task], up);
    for (size_t t = run.start, k = 0; t < run.stop; t += BLOCK, k++) {
      size_t rows = smaller(BLOCK, run.stop - t);
      float *states = p->states + t * p->rank;
      ask_for_next(p, &run, last, k);
      kernels->dot(rows, p->rank, p->x + t * p->in, p->in, p->down[run.task], p->in, p->in, states, p->rank);
      for (size_t i = 0; i < rows * p->rank; i++) scaled[i] = p->scales[run.task] * states[i];
      kernels->add(rows, p->rank, p->more, p->above + t * p->out, p->out, scaled, p->rank, 1, up, p->out, p->out);
    }
  }
}

/* Whose these tokens are. */
static void whose_rows(const Products *p, size_t first, size_t last, size_t *of_rows) {
  for (Run run = {0}; next_run(p, first, last, &run);) {
    for (size_t t = run.start; t < run.stop; t++) of_rows[t] = run.task;
  }
}

/* The states of these tokens, times their scale too, and whose they are. */
static void states_of(const Products *p, size_t first, size_t last, float *scaled, size_t *of_rows) {
  for (Run run = {0}; next_run(p, first, last, &run);) {
    for (size_t t = run.start, k = 0; t < run.stop; t += BLOCK, k++) {
      size_t rows = smaller(BLOCK, run.stop - t), from = t * p->rank;
      ask_for_next(p, &run, last, k);
      kernels->dot(rows, p->rank, p->x + t * p->in, p->in, p->down[run.task], p->in, p->in, p->states + from, p->rank);
      for (size_t i = from; i < from + rows * p->rank; i++) scaled[i] = p->scales[run.task] * p->states[i];
    }
  }
  whose_rows(p, first, last, of_rows);
}

/* The states' gradients of these tokens, and what they add to that of x, if it has one. */
static void through_states(const Products *p, float *dx, float *d_states, size_t first, size_t last, float *up) {
  for (Run run = {0}; next_run(p, first, last, &run);) {
    kernels->transpose(p->out, p->rank, p->up[run.task], up);
    for (size_t t = run.start, k = 0; t < run.stop; t += BLOCK, k++) {
      size_t rows = smaller(BLOCK, run.stop - t);
      float *own = d_states + t * p->rank;
      ask_for_next(p, &run, last, k);
      kernels->dot(rows, p->rank, p->above + t * p->out, p->out, up, p->out, p->out, own, p->rank);
      for (size_t i = 0; i < rows * p->rank; i++) own[i] *= p->scales[run.task];
      if (dx) kernels->add(rows, p->rank, NULL, dx + t * p->in, p->in, own, p->rank, 1, p->down[run.task], p->in, p->in);
    }
  }
}

/* Adds for each run its states, or their gradients, times its rows of x: to [tasks, rank, width], whatever it holds.
 * `zeros` [width] is where a task's sum begins, `seen` says which have. */
static void sum_up(const Products *p, const float *states, const float *x, size_t ldx, size_t width, float *sums, size_t lds,
                   const float *zeros, char *seen) {
  memset(seen, 0, p->number);
  for (Run run = {0}; next_run(p, 0, p->tokens, &run);) {
    kernels->add(p->rank, run.stop - run.start, seen[run.task] ? NULL : zeros, sums + run.task * p->rank * lds, lds,
                 states + run.start * p->rank, 1, p->rank, x + run.start * ldx, ldx, width);
    seen[run.task] = 1;
  }
  for (size_t i = 0; i < p->number * p->rank; i++) {
    if (!seen[i / p->rank]) memset(sums + i * lds, 0, width * sizeof(float));
  }
}

/* The rows from `from` to `to` of B's gradients, [tasks, out, rank]; `sums` holds what is theirs for all tasks. */
static void of_up(const Products *p, float *d_up, size_t from, size_t to, float *sums, const float *zeros, char *seen) {
  size_t width = to - from;
  sum_up(p, p->states, p->above + from, p->out, width, sums, width, zeros, seen);
  for (size_t task = 0; task < p->number; task++) {
    const float *own = sums + task * p->rank * width;
    float *result = d_up + (task * p->out + from) * p->rank;
    kernels->transpose_back(p->rank, width, p->scales[task], own, result);
  }
}

#include "wide.h"

/* ---- Python ---- */

/* Attributes of tensors, made once: to make them for each tensor would take as long as to read them. */
static PyObject *DTYPE, *IS_CPU, *IS_CONTIGUOUS, *NUMEL, *SIZE, *DATA_PTR, *FIRST;

/* 1: the tensor has this attribute, or gives it when it is called; 0: another one; -1: an error. */
static int gives(PyObject *tensor, PyObject *name, int call, PyObject *expected) {
  PyObject *found = call ? PyObject_CallMethodObjArgs(tensor, name, NULL) : PyObject_GetAttr(tensor, name);
  if (!found) return -1;
  Py_DECREF(found);
  return found == expected; /* compared, not read: what is expected is held elsewhere */
}

/* What a method of a tensor gives, a number; 0 with an error set where there is none. `given`: its argument, or NULL. */
static unsigned long long asked(PyObject *tensor, PyObject *name, PyObject *given) {
  PyObject *found = PyObject_CallMethodObjArgs(tensor, name, given, NULL);
  unsigned long long number = found ? PyLong_AsUnsignedLongLong(found) : 0;
  Py_XDECREF(found);
  return number;
}

typedef struct {
  size_t rows, numbers; /* rows 0: any */
} Shape;

/* Where the tensors are. 1: all are of these shapes, kinds and dtype, in a processor's memory, without gaps; 0: one is
 * not; -1: an error. */
static int places_of(PyObject *tensors, const Shape *shapes, PyObject *kinds, PyObject *dtype, float **places) {
  for (Py_ssize_t i = 0; i < PyTuple_Size(tensors); i++) {
    PyObject *tensor = PyTuple_GetItem(tensors, i);
    int fits = 0;
    for (Py_ssize_t k = 0; k < PyTuple_Size(kinds); k++) fits |= (PyObject *)Py_TYPE(tensor) == PyTuple_GetItem(kinds, k);
    if (fits == 1) fits = gives(tensor, DTYPE, 0, dtype);
    if (fits == 1) fits = gives(tensor, IS_CPU, 0, Py_True);
    if (fits == 1) fits = gives(tensor, IS_CONTIGUOUS, 1, Py_True);
    if (fits == 1) fits = asked(tensor, NUMEL, NULL) == shapes[i].numbers;
    if (fits == 1 && shapes[i].rows) fits = asked(tensor, SIZE, FIRST) == shapes[i].rows; /* its length is told by Python */
    if (fits == 1) places[i] = (float *)(uintptr_t)asked(tensor, DATA_PTR, NULL);
    if (PyErr_Occurred()) { /* a tensor of one number, or without memory of its own, as those that vmap makes */
      if (!PyErr_ExceptionMatches(PyExc_RuntimeError) && !PyErr_ExceptionMatches(PyExc_IndexError)) return -1;
      PyErr_Clear();
      return 0;
    }
    if (fits != 1 || !places[i]) return 0;
  }
  return 1;
}

static int as_sizes(PyObject *tuple, size_t *out) {
  for (Py_ssize_t i = 0; i < PyTuple_Size(tuple); i++) {
    out[i] = (size_t)PyLong_AsUnsignedLongLong(PyTuple_GetItem(tuple, i));
    if (PyErr_Occurred()) return 0;
  }
  return 1;
}

/* Of (tensors, kinds, dtype, sizes, scales, ends, tasks), where tensors are x, the output or its gradient, the states, A of
 * each task, B of each, and perhaps more: the bias or the gradient of x, and last, if `wide`, the base layer's weight. All
 * addresses are at `places`, where all the memory that is to be freed begins. 1, 0 or -1 as above. */
static int read_products(Products *p, int backwards, int wide, PyObject *args, float ***places) {
  enum { FIXED = 3 };
  PyObject *tensors, *kinds, *dtype, *sizes, *scales, *ends, *tasks;
  size_t given[4];
  *places = NULL;
  if (!kernels) {
    PyErr_SetString(PyExc_RuntimeError, "no instructions are chosen");
    return -1;
  }
  if (!PyArg_ParseTuple(args, "O!O!OO!O!O!O!", &PyTuple_Type, &tensors, &PyTuple_Type, &kinds, &dtype, &PyTuple_Type, &sizes,
                        &PyTuple_Type, &scales, &PyTuple_Type, &ends, &PyTuple_Type, &tasks)) {
    return -1;
  }
  memset(p, 0, sizeof *p);
  p->number = (size_t)PyTuple_Size(scales), p->runs = (size_t)PyTuple_Size(ends);
  size_t count = (size_t)PyTuple_Size(tensors), fewest = FIXED + 2 * p->number + (wide ? 1 : 0);
  int fits = PyTuple_Size(sizes) == 4 && as_sizes(sizes, given) && (size_t)PyTuple_Size(tasks) == p->runs && p->runs > 0 &&
             (count == fewest || count == fewest + 1);
  if (fits) {
    *places = calloc(3 * (count + 1) + 2 * p->runs + p->number, sizeof(float *));
    if (!*places) {
      PyErr_NoMemory();
      return -1;
    }
    p->tokens = given[0], p->in = given[1], p->out = given[2], p->rank = given[3];
    p->ends = (size_t *)(*places + 3 * (count + 1)), p->tasks = p->ends + p->runs;
    p->scales = (float *)(p->tasks + p->runs);
    fits = as_sizes(ends, p->ends) && as_sizes(tasks, p->tasks);
  }
  for (size_t i = 0; fits && i < p->number; i++) {
    p->scales[i] = (float)PyFloat_AsDouble(PyTuple_GetItem(scales, (Py_ssize_t)i));
    fits = !PyErr_Occurred();
  }
  size_t before = 0;
  for (size_t run = 0; fits && run < p->runs; run++) {
    fits = p->tasks[run] < p->number && p->ends[run] > before;
    before = p->ends[run];
  }
  if (!fits || p->tokens % before) {
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "tensors, sizes, tasks and runs do not fit together");
    return -1;
  }
  p->each = p->tokens / before;
  Shape *shapes = (Shape *)(*places + count + 1);
  shapes[0] = (Shape){0, p->tokens * p->in}, shapes[1] = (Shape){0, p->tokens * p->out};
  shapes[2] = (Shape){p->tokens, p->tokens * p->rank};
  for (size_t i = 0; i < p->number; i++) {
    shapes[FIXED + i] = (Shape){p->rank, p->rank * p->in};
    shapes[FIXED + p->number + i] = (Shape){p->out, p->out * p->rank};
  }
  shapes[FIXED + 2 * p->number] = backwards ? (Shape){p->tokens, p->tokens * p->in} : (Shape){p->out, p->out};
  if (wide) shapes[count - 1] = (Shape){p->out, p->out * p->in};
  fits = places_of(tensors, shapes, kinds, dtype, *places);
  p->x = (*places)[0], p->above = (*places)[1], p->states = (*places)[2];
  if (count > fewest) p->more = (*places)[FIXED + 2 * p->number];
  if (wide) p->weight = (*places)[count - 1];
  p->down = (const float **)(*places + FIXED), p->up = p->down + p->number;
  return fits;
}

/* What a call gives: whether it has done it. Without enough memory it has not, and the caller has other ways. */
static PyObject *done(int fits, float **places) {
  free(places);
  return fits < 0 ? NULL : PyBool_FromLong(fits);
}

/* y = W x + b + s B A x; 0: there was no memory. */
static int all_forward(const Products *p, size_t threads) {
  const Kernels *all = kernels;
  size_t panels = panels_of(all, p->out), states = p->tokens * p->rank, factors = panels * all->panel * p->number * p->rank;
  size_t *of_rows = malloc(p->tokens * sizeof(size_t) + (states + factors) * sizeof(float));
  if (!of_rows) return 0;
  float *scaled = (float *)(of_rows + p->tokens), *packed = scaled + states;
  Wide w = {.kernels = all, .rows = p->tokens, .terms = p->in, .columns = p->out, .x = p->x, .weight = p->weight, .y = p->above,
            .base = p->more, .rank = p->rank, .number = p->number, .states = scaled, .tasks = of_rows, .factors = packed};
#pragma omp parallel for num_threads((int)threads) schedule(static)
  for (size_t k = 0; k < threads; k++) {
    states_of(p, part(p->tokens, 1, k, threads), part(p->tokens, 1, k + 1, threads), scaled, of_rows);
    size_t first = part(panels, 1, k, threads), last = part(panels, 1, k + 1, threads);
    for (size_t i = 0; i < p->number; i++) pack_factors(all, p->out, p->rank, p->up[i], 0, i, p->number, first, last, packed);
  }
  int worked;
  Py_BEGIN_ALLOW_THREADS
  worked = wide(&w, threads);
  Py_END_ALLOW_THREADS
  free(of_rows);
  return worked;
}

static PyObject *forward(PyObject *module, PyObject *args) {
  PyObject *what;
  float **places;
  int threads, with_base;
  Products p;
  (void)module;
  if (!PyArg_ParseTuple(args, "ipO!", &threads, &with_base, &PyTuple_Type, &what)) return NULL;
  int fits = read_products(&p, 0, with_base, what, &places);
  if (fits != 1) return done(fits, places);
  if (with_base) return done(all_forward(&p, (size_t)threads), places);
  size_t own = p.out * p.rank + BLOCK * p.rank;
  float *buffers = malloc((size_t)threads * own * sizeof(float));
  if (!buffers) return done(0, places);
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int k = 0; k < threads; k++) {
    size_t first = part(p.tokens, 1, (size_t)k, (size_t)threads);
    size_t last = part(p.tokens, 1, (size_t)k + 1, (size_t)threads);
    float *up_of_task = buffers + (size_t)k * own;
    add_low_rank(&p, first, last, up_of_task, up_of_task + p.out * p.rank);
  }
  free(buffers);
  return done(1, places);
}

static PyObject *backward(PyObject *module, PyObject *args) {
  unsigned long long at_down, at_up;
  PyObject *what;
  float **places;
  int threads, with_base;
  Products p;
  (void)module;
  if (!PyArg_ParseTuple(args, "ipKKO!", &threads, &with_base, &at_down, &at_up, &PyTuple_Type, &what)) return NULL;
  int fits = read_products(&p, 1, with_base, what, &places);
  if (fits != 1) return done(fits, places);
  float *d_down = (float *)(uintptr_t)at_down, *d_up = (float *)(uintptr_t)at_up;
  /* The states' gradients; then for each thread B transposed, or its part of B's gradients; then what x's gradient needs. */
  size_t widest = (p.out + 16 * (size_t)threads) / (size_t)threads, states = p.tokens * p.rank;
  size_t own = p.rank * (d_up && p.number * widest > p.out ? p.number * widest : p.out);
  size_t factors = with_base ? panels_of(kernels, p.in) * kernels->panel * p.number * p.rank : 0;
  size_t wider = p.in > p.out ? p.in : p.out, all = states + (size_t)threads * own + factors + wider;
  size_t *of_rows = malloc(p.tokens * sizeof(size_t) + all * sizeof(float) + (size_t)threads * p.number);
  if (!of_rows) return done(0, places);
  float *d_states = (float *)(of_rows + p.tokens);
  float *buffers = d_states + states, *packed = buffers + (size_t)threads * own, *zeros = packed + factors;
  char *seen_by = (char *)(zeros + wider);
  memset(zeros, 0, wider * sizeof(float));
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static)
    for (int k = 0; k < threads; k++) {
      size_t first = part(p.tokens, 1, (size_t)k, (size_t)threads);
      size_t last = part(p.tokens, 1, (size_t)k + 1, (size_t)threads);
      through_states(&p, with_base ? NULL : p.more, d_states, first, last, buffers + (size_t)k * own);
      if (with_base) whose_rows(&p, first, last, of_rows);
    }
#pragma omp for schedule(static)
    for (int k = 0; k < threads; k++) {
      size_t thread = (size_t)k, number = (size_t)threads;
      char *seen = seen_by + thread * p.number;
      size_t from = part(p.in, 16, thread, number), to = part(p.in, 16, thread + 1, number);
      if (d_down && from < to) sum_up(&p, d_states, p.x + from, p.in, to - from, d_down + from, p.in, zeros, seen);
      from = part(p.out, 16, thread, number), to = part(p.out, 16, thread + 1, number);
      if (d_up && from < to) of_up(&p, d_up, from, to, buffers + thread * own, zeros, seen);
      from = part(panels_of(kernels, p.in), 1, thread, number), to = part(panels_of(kernels, p.in), 1, thread + 1, number);
      for (size_t i = 0; with_base && i < p.number; i++) {
        pack_factors(kernels, p.in, p.rank, p.down[i], 1, i, p.number, from, to, packed);
      }
    }
  }
  int worked = 1;
  if (with_base) {
    Wide w = {.kernels = kernels, .rows = p.tokens, .terms = p.out, .columns = p.in, .x = p.above, .weight = p.weight, .y = p.more, .turned = 1,
              .rank = p.rank, .number = p.number, .states = d_states, .tasks = of_rows, .factors = packed};
    Py_BEGIN_ALLOW_THREADS
    worked = wide(&w, (size_t)threads);
    Py_END_ALLOW_THREADS
  }
  free(of_rows);
  return done(worked, places);
}

static PyObject *product(PyObject *module, PyObject *args) {
  PyObject *tensors, *kinds, *dtype, *sizes;
  size_t given[3]; /* rows; inputs and outputs of the layer */
  float *places[4] = {0};
  int threads;
  (void)module;
  if (!PyArg_ParseTuple(args, "iO!O!OO!", &threads, &PyTuple_Type, &tensors, &PyTuple_Type, &kinds, &dtype, &PyTuple_Type, &sizes)) {
    return NULL;
  }
  Py_ssize_t count = PyTuple_Size(tensors);
  if (!kernels || (count != 3 && count != 4) || PyTuple_Size(sizes) != 3 || !as_sizes(sizes, given)) {
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "x, W, y and perhaps b, and three sizes, after `use`");
    return NULL;
  }
  size_t rows = given[0], in = given[1], out = given[2];
  Shape shapes[4] = {{0, rows * in}, {out, out * in}, {0, rows * out}, {out, out}};
  int fits = places_of(tensors, shapes, kinds, dtype, places);
  if (fits != 1) return done(fits, NULL);
  Wide w = {.kernels = kernels, .rows = rows, .terms = in, .columns = out, .x = places[0], .weight = places[1], .y = places[2], .base = places[3]};
  Py_BEGIN_ALLOW_THREADS
  fits = wide(&w, (size_t)threads);
  Py_END_ALLOW_THREADS
  return done(fits, NULL);
}

static PyObject *use(PyObject *module, PyObject *args) {
  const char *name = NULL;
  (void)module;
  if (!PyArg_ParseTuple(args, "|z", &name)) return NULL;
  __builtin_cpu_init();
  int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  int avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
  if (name && strcmp(name, "avx512") && strcmp(name, "avx2")) {
    return PyErr_Format(PyExc_ValueError, "Instructions are 'avx512' or 'avx2', not '%s'.", name);
  }
  avx512 = avx512 && (!name || !strcmp(name, "avx512"));
  avx2 = avx2 && (!name || !strcmp(name, "avx2"));
  if (!avx512 && !avx2) Py_RETURN_NONE;
  kernels = avx512 ? &OF_AVX512 : &OF_AVX2;
  return PyUnicode_FromString(avx512 ? "avx512" : "avx2");
}

static PyObject *of_amd(PyObject *module, PyObject *args) {
  (void)module, (void)args;
  __builtin_cpu_init();
  return PyBool_FromLong(__builtin_cpu_is("amd"));
}

static PyMethodDef METHODS[] = {
    {"forward", forward, METH_VARARGS, "Adds the low-rank products to y, or fills it with the base layer's too; see native.py."},
    {"backward", backward, METH_VARARGS, "Adds to the gradient of x, or fills it too; fills those of A and B; see native.py."},
    {"product", product, METH_VARARGS, "y = W x + b; see native.py."},
    {"use", use, METH_VARARGS, "Chooses instructions, the best or the named; returns which, None: this processor has not these."},
    {"of_amd", of_amd, METH_NOARGS, "Whether this processor is one of AMD's."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_low_rank", NULL, -1, METHODS, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__low_rank(void) {
  DTYPE = PyUnicode_InternFromString("dtype"), IS_CPU = PyUnicode_InternFromString("is_cpu");
  IS_CONTIGUOUS = PyUnicode_InternFromString("is_contiguous"), DATA_PTR = PyUnicode_InternFromString("data_ptr");
  NUMEL = PyUnicode_InternFromString("numel"), SIZE = PyUnicode_InternFromString("size"), FIRST = PyLong_FromLong(0);
  return DTYPE && IS_CPU && IS_CONTIGUOUS && NUMEL && SIZE && FIRST && DATA_PTR ? PyModule_Create(&MODULE) : NULL;
}
