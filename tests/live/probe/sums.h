/* What `sum_up` does, for ISAs that have nothing of their own to show with it. */
static inline void sum_up(u32 n, u32 *odd, u32 *even, u32 *odds, u32 *evens)
{
    if (n & 1)
        *odd += n, ++*odds;
    else
        *even += n, ++*evens;
}
