using FlashAttention.Interop;

namespace FlashAttention.Tests;

/// <summary>Wrong calls of the device helpers: devices, memory, streams, events, graphs.</summary>
internal static unsafe class BadDeviceCalls
{
    private const int Invalid = (int)fa_status.FA_STATUS_INVALID_ARGUMENT;
    private const int Unsupported = (int)fa_status.FA_STATUS_UNSUPPORTED;
    private const int Sentinel = 0x5A5A;

    private static readonly fa_device Cpu = TestDevice.Cpu.Handle;
    private static readonly fa_device NoSuchType = new() { type = (fa_device_type)42 };

    public static BadCall[] All() => [.. Devices(), .. Threads(), .. Allocation(), .. Copies(), .. Streams(), .. Events(), .. Graphs()];

    private static BadCall Bad(string name, int status, Func<CallWorld, fa_status> make, params string[] parts) =>
        new BadCall("device: " + name, status, parts) { Make = make };

    private static BadCall[] Devices() =>
    [
        Bad("count into null", Invalid, _ => NativeMethods.fa_device_count(fa_device_type.FA_DEVICE_CPU, null), "out_count", "NULL"),
        Bad("count of an unknown type", Invalid,
            world =>
            {
                int count = Sentinel;
                fa_status status = NativeMethods.fa_device_count((fa_device_type)(-3), &count);
                world.Unchanged("out_count", count == Sentinel);
                return status;
            },
            "type", "got -3"),
        Bad("info into null", Invalid, _ => NativeMethods.fa_device_get_info(Cpu, null), "info", "NULL"),
        Bad("info without struct_size", Invalid, world => Info(world, Cpu, 0), "info.struct_size", "got 0"),
        Bad("info with a small struct_size", Invalid, world => Info(world, Cpu, 12), "info.struct_size", "got 12"),
        Bad("info of an unknown type", Invalid, world => Info(world, NoSuchType, (uint)sizeof(fa_device_info)), "device.type", "got 42"),
        Bad("info of the second CPU", Invalid, world => Info(world, new() { index = 1 }, (uint)sizeof(fa_device_info)), "device.index", "got 1"),
        Bad("synchronize an unknown type", Invalid, _ => NativeMethods.fa_device_synchronize(NoSuchType), "device.type", "got 42"),
        Bad("synchronize CUDA device 99", (int)fa_status.FA_STATUS_DEVICE_UNAVAILABLE,
            _ => NativeMethods.fa_device_synchronize(new() { type = fa_device_type.FA_DEVICE_CUDA, index = 99 }), "device"),
    ];

    private static BadCall[] Threads() =>
    [
        Bad("-1 threads", Invalid, _ => NativeMethods.fa_cpu_set_num_threads(-1), "num_threads", "got -1"),
        Bad("1025 threads", Invalid, _ => NativeMethods.fa_cpu_set_num_threads(1025), "num_threads", "1024", "got 1025"),
        Bad("threads into null", Invalid, _ => NativeMethods.fa_cpu_get_num_threads(null), "out_num_threads", "NULL"),
    ];

    private static BadCall[] Allocation() =>
    [
        Bad("allocate into null", Invalid, _ => NativeMethods.fa_memory_allocate(Cpu, 64, null), "out_pointer", "NULL"),
        Bad("allocate on an unknown type", Invalid, world => Allocate(world, NoSuchType, 64), "device.type", "got 42"),
        Bad("allocate 2^64 - 1 bytes", (int)fa_status.FA_STATUS_OUT_OF_MEMORY, world => Allocate(world, world.Handle, ulong.MaxValue),
            "18446744073709551615"),
        Bad("allocate 2^60 bytes", (int)fa_status.FA_STATUS_OUT_OF_MEMORY, world => Allocate(world, world.Handle, 1ul << 60), "1152921504606846976"),
        Bad("allocate host memory into null", Invalid, _ => NativeMethods.fa_memory_allocate_host(64, null), "out_pointer", "NULL"),
        Bad("allocate 2^61 bytes of host memory", (int)fa_status.FA_STATUS_OUT_OF_MEMORY,
            world =>
            {
                void* pointer = (void*)Sentinel;
                fa_status status = NativeMethods.fa_memory_allocate_host(1ul << 61, &pointer);
                world.Unchanged("out_pointer", pointer == (void*)Sentinel);
                return status;
            },
            "2305843009213693952"),
        Bad("free foreign memory", Invalid, _ => NativeMethods.fa_memory_free(Cpu, HostMemory.Address), "pointer", "fa_memory_allocate"),
        Bad("free twice", Invalid,
            world =>
            {
                void* pointer;
                NativeCall.Check(NativeMethods.fa_memory_allocate(world.Handle, 64, &pointer));
                NativeCall.Check(NativeMethods.fa_memory_free(world.Handle, pointer));
                return NativeMethods.fa_memory_free(world.Handle, pointer);
            },
            "pointer", "destroyed already"),
        Bad("free inside a block", Invalid,
            world =>
            {
                void* pointer;
                NativeCall.Check(NativeMethods.fa_memory_allocate(world.Handle, 256, &pointer));
                fa_status status = NativeMethods.fa_memory_free(world.Handle, (byte*)pointer + 64);
                string message = NativeCall.LastMessage;
                NativeCall.Check(NativeMethods.fa_memory_free(world.Handle, pointer));
                Assert.That(NativeCall.LastMessage, Is.EqualTo(message), "a successful call leaves the message of the last failure");
                return status;
            },
            "pointer", "which is none"),
        Bad("free host memory as device memory", Invalid,
            _ =>
            {
                void* pointer;
                NativeCall.Check(NativeMethods.fa_memory_allocate_host(64, &pointer));
                fa_status status = NativeMethods.fa_memory_free(Cpu, pointer);
                NativeCall.Check(NativeMethods.fa_memory_free_host(pointer));
                return status;
            },
            "pointer", "fa_memory_allocate"),
        Bad("free foreign host memory", Invalid, _ => NativeMethods.fa_memory_free_host(HostMemory.Address + 64), "pointer", "fa_memory_allocate_host"),
        Bad("free on an unknown type", Invalid, _ => NativeMethods.fa_memory_free(NoSuchType, null), "device.type", "got 42"),
    ];

    private static BadCall[] Copies() =>
    [
        Bad("copy to null", Invalid, _ => Copy(null, HostMemory.Address, 16), "destination", "16 bytes", "NULL"),
        Bad("copy from null", Invalid, _ => Copy(HostMemory.Address, null, 24), "source", "24 bytes", "NULL"),
        Bad("copy onto itself", Invalid, _ => Copy(HostMemory.Address, HostMemory.Address, 8), "destination", "overlap"),
        Bad("copy between overlapping ranges", Invalid, _ => Copy(HostMemory.Address + 8, HostMemory.Address, 16), "destination", "16 bytes", "overlap"),
        Bad("copy past the address space", Invalid, _ => Copy(HostMemory.Address, HostMemory.Address + 4096, ulong.MaxValue), "size_bytes",
            "18446744073709551615"),
        Bad("copy to an unknown type", Invalid,
            _ => NativeMethods.fa_memory_copy(NoSuchType, HostMemory.Address, Cpu, HostMemory.Address + 64, 8, 0), "destination_device.type", "got 42"),
        Bad("copy from an unknown type", Invalid,
            _ => NativeMethods.fa_memory_copy(Cpu, HostMemory.Address, NoSuchType, HostMemory.Address + 64, 8, 0), "source_device.type", "got 42"),
        Bad("host copy on a stream", Invalid,
            _ => NativeMethods.fa_memory_copy(Cpu, HostMemory.Address, Cpu, HostMemory.Address + 64, 8, 0x77), "stream", "0x77"),
        Bad("set null", Invalid, _ => NativeMethods.fa_memory_set(Cpu, null, 0, 32, 0), "destination", "32 bytes", "NULL"),
        Bad("set to 256", Invalid, _ => NativeMethods.fa_memory_set(Cpu, HostMemory.Address, 256, 8, 0), "value", "got 256"),
        Bad("set to -1", Invalid, _ => NativeMethods.fa_memory_set(Cpu, HostMemory.Address, -1, 8, 0), "value", "got -1"),
        Bad("set on a stream of the CPU", Invalid, _ => NativeMethods.fa_memory_set(Cpu, HostMemory.Address, 1, 8, 0x99), "stream", "0x99"),
    ];

    private static BadCall[] Streams() =>
    [
        Bad("create a stream into null", Invalid, _ => NativeMethods.fa_stream_create(Cpu, null), "out_stream", "NULL"),
        Bad("create a stream on an unknown type", Invalid,
            world =>
            {
                nint stream = Sentinel;
                fa_status status = NativeMethods.fa_stream_create(NoSuchType, &stream);
                world.Unchanged("out_stream", stream == Sentinel);
                return status;
            },
            "device.type", "got 42"),
        Bad("destroy a foreign stream", Invalid, world => NativeMethods.fa_stream_destroy(world.Handle, 0x8880), "stream", "0x8880"),
        Bad("synchronize a stream of the CPU", Invalid, _ => NativeMethods.fa_stream_synchronize(Cpu, 0x9990), "stream", "0x9990"),
    ];

    private static BadCall[] Events() =>
    [
        Bad("create an event into null", Invalid, _ => NativeMethods.fa_event_create(Cpu, null), "out_event", "NULL"),
        Bad("create an event on an unknown type", Invalid,
            world =>
            {
                nint created = Sentinel;
                fa_status status = NativeMethods.fa_event_create(NoSuchType, &created);
                world.Unchanged("out_event", created == Sentinel);
                return status;
            },
            "device.type", "got 42"),
        Bad("record a null event", Invalid, _ => NativeMethods.fa_event_record(0, 0), "event", "fa_event_create"),
        Bad("record a foreign event", Invalid, _ => NativeMethods.fa_event_record(0x1110, 0), "event", "0x1110"),
        Bad("query into null", Invalid, world => WithEvents(world, (start, _) => NativeMethods.fa_event_query(start, null)), "out_complete", "NULL"),
        Bad("query a foreign event", Invalid, _ => Query(0x2220), "event", "0x2220"),
        Bad("synchronize a foreign event", Invalid, _ => NativeMethods.fa_event_synchronize(0x3330), "event", "0x3330"),
        Bad("destroy a foreign event", Invalid, _ => NativeMethods.fa_event_destroy(0x4440), "event", "0x4440"),
        Bad("wait for a null event", Invalid, world => NativeMethods.fa_stream_wait_event(world.Handle, 0, 0), "event"),
        Bad("use an event after it was destroyed", Invalid,
            world =>
            {
                nint created;
                NativeCall.Check(NativeMethods.fa_event_create(world.Handle, &created));
                NativeCall.Check(NativeMethods.fa_event_destroy(created));
                return NativeMethods.fa_event_synchronize(created);
            },
            "event", "destroyed already"),
        Bad("time from an event never recorded", Invalid, world => WithEvents(world, (start, end) => Elapsed(world, start, end, recordEnd: true)),
            "start", "recorded"),
        Bad("time to an event never recorded", Invalid, world => WithEvents(world, (start, end) => Elapsed(world, end, start, recordStart: true)),
            "end", "recorded"),
        Bad("time into null", Invalid, world => WithEvents(world, (start, end) => NativeMethods.fa_event_elapsed_ms(start, end, null)),
            "out_milliseconds", "NULL"),
        Bad("time from a foreign event", Invalid, world => WithEvents(world, (_, end) => Elapsed(world, 0x5550, end)), "start", "0x5550"),
        Bad("time to a foreign event", Invalid, world => WithEvents(world, (start, _) => Elapsed(world, start, 0x6660)), "end", "0x6660"),
    ];

    private static BadCall[] Graphs() =>
    [
        Bad("capture on the CPU", Unsupported, _ => NativeMethods.fa_stream_begin_capture(Cpu, 0), "device", "CUDA"),
        Bad("end a capture on the CPU", Unsupported, EndCapture, "device", "CUDA"),
        Bad("end a capture into null", Invalid, _ => NativeMethods.fa_stream_end_capture(Cpu, 0, null), "out_graph", "NULL"),
        Bad("launch a null graph", Invalid, _ => NativeMethods.fa_graph_launch(0, 0), "graph", "fa_stream_end_capture"),
        Bad("launch a foreign graph", Invalid, _ => NativeMethods.fa_graph_launch(0x7770, 0), "graph", "0x7770"),
        Bad("destroy a foreign graph", Invalid, _ => NativeMethods.fa_graph_destroy(0x7780), "graph", "0x7780"),
        Bad("capture the default stream", Invalid, world => NativeMethods.fa_stream_begin_capture(world.Handle, 0), "stream") with { OnlyOn = "cuda" },
    ];

    private static fa_status Info(CallWorld world, fa_device device, uint structSize)
    {
        fa_device_info info = default;
        info.struct_size = structSize;
        info.driver_version = Sentinel;
        fa_status status = NativeMethods.fa_device_get_info(device, &info);
        world.Unchanged("info", info.driver_version == Sentinel && info.struct_size == structSize);
        return status;
    }

    private static fa_status Allocate(CallWorld world, fa_device device, ulong bytes)
    {
        void* pointer = (void*)Sentinel;
        fa_status status = NativeMethods.fa_memory_allocate(device, bytes, &pointer);
        world.Unchanged("out_pointer", pointer == (void*)Sentinel);
        return status;
    }

    private static fa_status Copy(byte* destination, byte* source, ulong bytes) => NativeMethods.fa_memory_copy(Cpu, destination, Cpu, source, bytes, 0);

    private static fa_status Query(nint theEvent)
    {
        int complete;
        return NativeMethods.fa_event_query(theEvent, &complete);
    }

    private static fa_status WithEvents(CallWorld world, Func<nint, nint, fa_status> use)
    {
        nint start, end;
        NativeCall.Check(NativeMethods.fa_event_create(world.Handle, &start));
        NativeCall.Check(NativeMethods.fa_event_create(world.Handle, &end));
        fa_status status = use(start, end);
        NativeCall.Check(NativeMethods.fa_event_destroy(start));
        NativeCall.Check(NativeMethods.fa_event_destroy(end));
        return status;
    }

    private static fa_status Elapsed(CallWorld world, nint start, nint end, bool recordStart = false, bool recordEnd = false)
    {
        if (recordStart)
        {
            NativeCall.Check(NativeMethods.fa_event_record(start, 0));
        }
        if (recordEnd)
        {
            NativeCall.Check(NativeMethods.fa_event_record(end, 0));
        }
        float milliseconds = Sentinel;
        fa_status status = NativeMethods.fa_event_elapsed_ms(start, end, &milliseconds);
        world.Unchanged("out_milliseconds", milliseconds == Sentinel);
        return status;
    }

    private static fa_status EndCapture(CallWorld world)
    {
        nint graph = Sentinel;
        fa_status status = NativeMethods.fa_stream_end_capture(Cpu, 0, &graph);
        world.Unchanged("out_graph", graph == Sentinel);
        return status;
    }
}
