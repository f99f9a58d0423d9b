/* Made by `python -m pvpmu.shared.states` from pvpmu/shared/states.py.
 * An event is the bitmap of its allowed pairs: bit 4 * state + next state. */
#define S_UNREGISTERED 0
#define S_RUNNING 1
#define S_STOPPED 2
#define S_HELD 3
#define E_REGISTER_LIVE 8226
#define E_REGISTER_STOPPED 17412
#define E_REGISTER_REFUSED 4369
#define E_UNREGISTER 4369
#define E_RESET 4369
#define E_PAGE_READ 33824
#define E_PAGE_ELIDED 32
#define E_PAGE_STORE 33792
#define E_PAGE_RELEASE 17408
#define E_PAGE_ACK 33824
#define E_TRAPPED_READ 33825
#define E_WRITE_STOPS 33857
#define E_GLOBAL_CTRL_STOPS 17473
#define E_WRITE_STARTS 33313
#define E_GLOBAL_CTRL_STARTS 8737
#define E_REFUSED 33825
#define E_COMMIT_REFUSED 17408
#define E_FREEZE 128
#define E_PMI 33825
#define E_OTHER_NMI 33825
#define E_HOST_WRITE 33825
#define E_SAVE_RESTORE 33825
#define NEXT_OK(s, e, n) (((e) >> (4 * (s) + (n))) & 1)
